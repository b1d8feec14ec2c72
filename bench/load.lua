-- The requests that wrk sends, and what it reports at the end.
-- Arguments: METHOD, then a file of paths (one a line), then (optional) a file with the body.
local paths, requests, index = {}, {}, 0

function init(arguments)
  local body
  if arguments[3] then
    local file = assert(io.open(arguments[3]))
    body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = "application/json"
  end
  for path in io.lines(arguments[2]) do
    requests[#requests + 1] = wrk.format(arguments[1], path, nil, body)
  end
end

function request()
  index = index % #requests + 1
  return requests[index]
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    'result {"requests":%d,"microseconds":%d,"failed":%d,"p50":%d,"p99":%d,"max":%d}\n',
    summary.requests, summary.duration,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
