#!/usr/bin/env bash
#
# Run the Dockerfile's steps without a container engine: each stage in a copy of a fresh Debian root (debootstrap,
# chroot), then the image's entry point as the image's user on a read-only root, until its health check passes, and ask
# it one question. Prints the size of the image. Needs root, debootstrap, the demo models (make models) and the network.
#
# It knows the instructions that our Dockerfile uses, and stops at others.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: check_image_steps.sh [--build-arg NAME=VALUE]... [--cache FOLDER] [--work FOLDER] [--suite NAME]

  --build-arg NAME=VALUE  as for docker build, e.g. MARCH=native
  --cache FOLDER          use this folder as the build's ~/.cache (an earlier build of llama.cpp is taken from there)
  --work FOLDER           where the roots are made (default: a temporary folder); the Debian root in it is used again
  --suite NAME            Debian release instead of the base image's (default: bookworm)
TEXT
}

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
log() { printf 'check_image_steps: %s\n' "$*" >&2; }
fail() { log "error: $*"; exit 1; }

declare -A given=()
work='' cache='' suite=bookworm
while (($#)); do
    case $1 in
        --help) usage; exit 0 ;;
        --build-arg | --cache | --work | --suite)
            [[ $# -ge 2 ]] || { log "error: $1 needs a value (see --help)"; exit 2; }
            case $1 in
                --build-arg) given[${2%%=*}]=${2#*=} ;;
                --cache) cache=$(realpath -- "$2") ;;
                --work) work=$(realpath -- "$2") ;;
                --suite) suite=$2 ;;
            esac
            shift 2
            ;;
        *) log "error: unknown option $1 (see --help)"; exit 2 ;;
    esac
done
((EUID == 0)) || fail "this needs root, for chroot"
command -v debootstrap >/dev/null || fail "debootstrap was not found; apt-get install debootstrap"
[[ -f $HERE/model/model.gguf ]] || fail "there is no model to serve; make models"
if [[ -z $work ]]; then
    work=$(mktemp -d)
    own_work=1
fi

mounts=() server=''
clean_up() {
    if [[ -n $server ]]; then kill -KILL -- "$server" 2>/dev/null || true; fi
    local index
    for ((index = ${#mounts[@]} - 1; index >= 0; index--)); do umount --lazy -- "${mounts[index]}" || true; done
    if [[ -n ${own_work:-} ]]; then rm -rf --one-file-system -- "$work"; fi
}
trap clean_up EXIT

# bind SOURCE TARGET [OPTION]
bind() {
    mkdir -p -- "$2"
    mount --bind -- "$1" "$2"
    mounts+=("$2")
    if [[ -n ${3:-} ]]; then mount -o "remount,bind,$3" -- "$2"; fi
}

# unbind_all: before a root is used for something else.
unbind_all() {
    local index
    for ((index = ${#mounts[@]} - 1; index >= 0; index--)); do umount -- "${mounts[index]}"; done
    mounts=()
}

# --------------------------------------------------------------------------------------------------------- the stages

stage='' root='' directory=/ user='' variables=() entrypoint='' healthcheck=''

base_size=''

# size_of FOLDER: in MB.
size_of() { du --summarize --one-file-system --block-size=1M -- "$1" | cut -f 1; }

begin_stage() {
    stage=$1 root=$work/$1 directory=/ user='' variables=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    log "stage $stage"
    unbind_all
    rm -rf --one-file-system -- "$root"
    cp -a -- "$work/base" "$root"
    # As in Debian's images: packages are not kept after they are installed.
    rm -f -- "$root"/var/cache/apt/archives/*.deb
    echo 'APT::Keep-Downloaded-Packages "false";' >"$root/etc/apt/apt.conf.d/keep-nothing"
    if [[ -z $base_size ]]; then base_size=$(size_of "$root"); fi
    # What a container engine and this machine's configuration of the package index would give a build.
    cp -L -- /etc/resolv.conf "$root/etc/resolv.conf"
    if [[ $stage == build ]]; then
        if [[ -f /etc/pip.conf ]]; then cp -- /etc/pip.conf "$root/etc/pip.conf"; fi
        if [[ -n $cache ]]; then bind "$cache" "$root/root/.cache"; fi
    fi
    bind /dev "$root/dev"
    bind /proc "$root/proc"
}

# The build's own certificate authority, where there is one: known only after ca-certificates is installed.
add_certificates() {
    local file=/etc/ssl/certs/ca-certificates.crt
    if [[ $stage == build && -f $file && -f $root$file ]]; then cp -- "$file" "$root$file"; fi
}

run_step() {
    local passed=("${variables[@]}" HOME=/root DEBIAN_FRONTEND=noninteractive) name
    for name in "${!PIP_@}" http_proxy https_proxy no_proxy; do
        if [[ $stage == build && -n ${!name:-} ]]; then passed+=("$name=${!name}"); fi
    done
    log "RUN ${1:0:90}..."
    chroot "$root" /usr/bin/env -i "${passed[@]}" /bin/sh -c "cd $directory && $1" >"$work/step.log" 2>&1 ||
        { tail -n 30 "$work/step.log" >&2; fail "the step failed; the end of its output is above"; }
    add_certificates
}

# copy_step [--from=STAGE] SOURCE... TARGET
copy_step() {
    local from=$HERE target source
    if [[ $1 == --from=* ]]; then from=$work/${1#--from=}; shift; fi
    target=${*: -1}
    [[ $target == /* ]] || target=$directory/$target
    for source in "${@:1:$#-1}"; do
        if [[ $from != "$HERE" ]]; then
            mkdir -p -- "$(dirname -- "$root$target")"
            cp -a -- "$from$source" "$root$target"
        else # what git tracks, as .dockerignore keeps the rest out
            mkdir -p -- "$root$directory"
            git -C "$HERE" ls-files -z -- "$source" | tar -C "$HERE" --null --files-from=- -cf - | tar -C "$root$directory" -xf -
        fi
    done
}

argument() {
    local name=${1%%=*} default=''
    [[ $1 == *=* ]] && default=${1#*=} && default=${default#\"} && default=${default%\"}
    variables+=("$name=${given[$name]-$default}")
}

step() {
    local name=${1%% *} rest=${1#* } words
    case $name in
        FROM) begin_stage "${rest##* }" ;;
        ARG) if [[ -n $stage ]]; then argument "$rest"; fi ;; # before the first stage they name base images
        RUN) run_step "$rest" ;;
        COPY) read -ra words <<<"$rest"; copy_step "${words[@]}" ;;
        ENV) read -ra words <<<"$rest"; variables+=("${words[@]}") ;;
        WORKDIR) directory=$rest; mkdir -p -- "$root$rest" ;;
        USER) user=$rest ;;
        ENTRYPOINT) entrypoint=$rest ;;
        HEALTHCHECK) healthcheck=${rest#*CMD } ;;
        LABEL | EXPOSE | VOLUME) ;;
        *) fail "unknown instruction $name" ;;
    esac
}

# -------------------------------------------------------------------------------------------------------- the service

# in_image COMMAND-AS-JSON: as the image's user, with nothing but the image's environment.
in_image() {
    local words
    mapfile -d '' -t words < <(python3 -c 'import json, sys; [print(w, end="\0") for w in json.loads(sys.argv[1])]' "$1")
    exec chroot --userspec="$user" "$root" /usr/bin/env -i "${variables[@]}" "${words[@]}"
}

serve() {
    unbind_all
    log "size: $(($(size_of "$root") - base_size)) MB more than the base, which has $base_size MB here"
    bind "$root" "$root" ro
    bind /dev "$root/dev"
    bind /proc "$root/proc"
    bind "$(dirname -- "$(realpath -- "$HERE/model/model.gguf")")" "$root/model" ro # may be a link
    bind "$HERE/data" "$root/data" ro
    local folder
    for folder in tmp cache state; do
        mount -t tmpfs -o "uid=${user%%:*},mode=1777" tmpfs "$root/$folder"
        mounts+=("$root/$folder")
    done
    variables+=("HTTP_ADDRESS=127.0.0.1:18080" "PROMETHEUS_HTTP_ADDRESS=127.0.0.1:18081" "MODEL_CALIBRATE=off")
    (in_image "$entrypoint") >"$work/server.log" 2>&1 &
    server=$!
    local attempt
    for ((attempt = 0; attempt < 120; attempt++)); do
        if (in_image "$healthcheck") >/dev/null 2>&1; then break; fi
        kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; fail "the server ended"; }
        sleep 1
    done
    ((attempt < 120)) || { cat "$work/server.log" >&2; fail "the health check never passed"; }
    log "healthy; asking"
    python3 - <<'PYTHON' || { cat "$work/server.log" >&2; fail "no answer"; }
import json
import urllib.request

body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
request = urllib.request.Request(
    "http://127.0.0.1:18080/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
)
answer = json.load(urllib.request.urlopen(request, timeout=120))
assert answer["usage"]["completion_tokens"] > 0, answer
print("answer:", answer["choices"][0]["message"]["content"])
PYTHON
    kill -TERM "$server"
    local code=0
    wait "$server" || code=$?
    server=''
    ((code == 0)) || { cat "$work/server.log" >&2; fail "the server ended with code $code after SIGTERM"; }
}

if [[ ! -f $work/base/etc/debian_version || ! -x $work/base/usr/bin/apt-get ]]; then
    log "making a Debian root ($suite)"
    debootstrap --variant=minbase "$suite" "$work/base" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log" >&2; fail "debootstrap failed"; }
fi

continued=''
while IFS= read -r line; do
    [[ $line == \#* ]] && continue
    continued+=$line
    if [[ $continued == *\\ ]]; then continued=${continued%\\}; continue; fi
    if [[ -n $continued ]]; then step "$continued"; fi
    continued=''
done <"$HERE/Dockerfile"
serve
log "all steps ran; the service answered and stopped"
