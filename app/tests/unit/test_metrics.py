from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from timestamp_service.runtime import metrics
from timestamp_service.runtime.metrics import HistogramBuffer


def test_a_tally_is_as_its_observations_one_by_one() -> None:
    observed = [0.0, 0.0005, 0.0006, 0.3, 29.0, 31.0, 1e9]
    registry = CollectorRegistry()
    one_by_one, together = (
        Histogram(name, name, buckets=(0.0005, 0.1, 30), registry=registry) for name in ("a", "b")
    )
    tally = HistogramBuffer(together)
    for number, seconds in enumerate(observed):
        one_by_one.observe(seconds)
        tally.observe(seconds)
        if number == 3:
            tally.flush()
    tally.flush()
    tally.flush()

    def values(name: str) -> dict[str, float]:
        (family,) = (family for family in registry.collect() if family.name == name)
        return {
            sample.name[1:] + str(sample.labels): sample.value
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert values("a") == values("b")
    assert values("b")["_count{}"] == len(observed)


def test_names_keep_to_the_conventions() -> None:
    families = list(text_string_to_metric_families(metrics.render().decode()))
    own = [family for family in families if family.name.startswith("timestamp_")]
    assert len(own) > 15
    for family in own:
        assert family.documentation
        if family.type == "counter":
            assert {sample.name for sample in family.samples} <= {
                f"{family.name}_total",
                f"{family.name}_created",
            }
