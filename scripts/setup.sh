#!/usr/bin/env bash
# Installs what is missing on this computer: Debian packages and the Python environment.
# usage: scripts/setup.sh PURPOSE…   (a purpose is a list requirements/debian/PURPOSE.txt, and PURPOSE-12.txt on Debian 12)
# STEPS=n in the environment numbers its messages as the first two of n steps.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly python=${PYTHON:-/usr/bin/python3}
readonly venv=${VENV:-$PWD/.venv}
readonly wanted=requirements/controller.txt
readonly cache=${XDG_CACHE_HOME:-$HOME/.cache}/timestamp-service

say() {
    printf '%s%s\n' "${STEPS:+[$1/$STEPS] }" "$2"
}

# With the proxies of the environment, which sudo drops: downloads use them.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY "$@"
    else
        echo "This needs root: run it as root, or install sudo. Command: $*" >&2
        return 1
    fi
}

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_packages() {
    local packages=() missing=() units=() package no_cluster=''
    local release list
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && echo "${VERSION_ID:-}")
    mapfile -t packages < <(
        for purpose; do
            grep -v '^#' "requirements/debian/$purpose.txt"
            list=requirements/debian/$purpose-$release.txt
            [ ! -e "$list" ] || grep -v '^#' "$list"
        done
    )
    # One query for all packages; only if it finds one missing is each package looked up.
    if [ "$(dpkg-query --show --showformat='${db:Status-Status}\n' "${packages[@]}" 2>/dev/null |
        grep -c '^installed$')" -ge ${#packages[@]} ]; then
        say 1 'Debian packages: all installed'
        return
    fi
    for package in "${packages[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    say 1 "Debian packages: install ${missing[*]}"
    if [[ " ${missing[*]} " == *' postgresql '* ]] && ! is_installed postgresql-common; then
        # The tests start their own servers; no cluster shall run on this computer by itself.
        no_cluster=/etc/postgresql-common/createcluster.d/timestamp-service.conf
        as_root mkdir -p "${no_cluster%/*}"
        echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
    fi
    # Nor shall these servers, now or at boot.
    for package in nginx prometheus prometheus-alertmanager; do
        [[ " ${missing[*]} " != *" $package "* ]] || units+=("$package.service")
    done
    [ ${#units[@]} = 0 ] || as_root systemctl --quiet mask "${units[@]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q)
    local log
    log=$(mktemp)
    if ! { as_root "${apt[@]}" update && as_root "${apt[@]}" install --yes --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        echo "The packages could not be installed; the end of apt's output is above, all of it in $log." >&2
        return 1
    fi
    rm -f "$log"
    if [ -n "$no_cluster" ]; then
        as_root rm -f "$no_cluster"
    fi
    if [ ${#units[@]} != 0 ]; then
        as_root systemctl --quiet unmask "${units[@]}"
        as_root systemctl --quiet disable "${units[@]}"
    fi
}

# What the environment depends on: it is recreated when one of these changes.
fingerprint() {
    echo "$venv"
    "$python" --version
    sha256sum <"$wanted"
}

install_python() {
    local image='' failed=''
    if [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$(fingerprint)" ] && "$venv/bin/python" -c 'import ansible' 2>/dev/null; then
        say 2 'Python environment: up to date'
        return
    fi
    say 2 "Python environment: install $wanted"
    # Building the nodes' image takes as long, so it runs at the same time. If it fails, the role reports why.
    if [[ " $* " == *' up '* ]]; then
        as_root env PYTHONPATH=roles/local_node/module_utils "$python" -B -m nspawn_nodes.root_image \
            --cache "$cache" --packages roles/local_node/files/root_packages.txt >/dev/null 2>&1 </dev/null &
        image=$!
    fi
    rm -rf "$venv"
    # Compiling would double the time, and only a small part of the ansible package is ever used.
    "$python" -m venv "$venv" &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input --no-compile --require-hashes \
            --requirement "$wanted" &&
        fingerprint >"$venv/.stamp" || failed=yes
    if [ -n "$image" ]; then
        wait "$image" || true
    fi
    if [ -n "$failed" ]; then
        echo "The Python environment $venv could not be created; the messages are above." >&2
        return 1
    fi
}

install_packages "$@"
install_python "$@"
