#!/usr/bin/env bash
#
# Build libllama and ggml from the pinned llama.cpp source.
#
# The source comes from the sdist named in vendor/llama.cpp/pin: pip downloads it and checks its sha256, only what is
# compiled is unpacked. Builds live in the user's cache folder, one directory per combination of source, options,
# compiler and CPU, so that a second call, another clone and CI reuse them. Progress goes to stderr; the only line on
# stdout is the prefix of the finished build (include/, lib/, and bin/ with --tools or --rpc). A prefix appears in one
# rename when it is complete: an interrupted build leaves nothing that a later call could take for finished. --tools and
# --rpc add to it, and so does a call that finds a prefix from before our kernels needed one of the internal headers.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# Of ggml's insides (ggml/src/), for llama_native/kernels/; installed as include/internal/.
INTERNAL_HEADERS=(ggml-impl.h ggml-backend-impl.h ggml-cpu/ggml-cpu-impl.h ggml-cpu/traits.h)
TOOL_TARGETS=(llama-bench llama-batched-bench llama-server llama-quantize)

usage() {
    cat <<'EOF'
Usage: build_llama.sh [OPTION...]

Build libllama (Release, shared, for this machine's CPU) from the pinned llama.cpp source and print the directory
that holds include/ and lib/. A build that is already in the cache is used as it is.

Backends (the CPU backend is always there):
  --cuda             NVIDIA GPUs; needs the CUDA toolkit (nvcc)
  --cuda-arch LIST   GPU architectures for --cuda, e.g. 90 or "80;90" (default: the GPUs of this machine)
  --vulkan           Vulkan GPUs; needs the Vulkan headers and loader, glslc and the SPIR-V headers
  --opencl           OpenCL GPUs (Adreno, Intel); needs the OpenCL headers and loader
  --blas             OpenBLAS for prefill on the CPU, of weights that are not repacked for other kernels: llama.cpp's own
                     (Q4_0, Q4_K and others, where the CPU has them) or Lucid's (Q4_1, unless MODEL_KERNELS=off)
  --clblast          CLBlast through its CBLAS interface, for prefill on an OpenCL device, of the same weights as --blas
  --rpc              layers on other machines over TCP: a plug-in for MODEL_RPC, and the program ggml-rpc-server

CPU:
  --march VALUE      build for this CPU instead of the one at hand, e.g. x86-64-v3 or armv8.2-a+dotprod
  --openmp           run CPU kernels on OpenMP threads (default)
  --no-openmp        run CPU kernels on ggml's own thread pool

Other:
  --tools            also build llama-bench, llama-batched-bench, llama-server and llama-quantize into bin/
  --jobs N           parallel compile jobs (default: all cores)
  --print-prefix     print where the build with these options is or would be, and stop
  --clean            delete the build with these options from the cache, and stop
  --help             this text

Environment:
  LLAMA_CPP_SOURCE   build this llama.cpp source tree instead of the pinned one
  XDG_CACHE_HOME     where the cache lives (default: ~/.cache); builds are under lucid-llm/llama.cpp
  CC, CXX            compilers to use
  CFLAGS, CXXFLAGS, LDFLAGS, CUDAFLAGS   flags for them, as cmake takes them
  PYTHON             Python used for downloading (default: python3)

Exit codes: 0 done, 1 the build failed, 2 wrong usage or something needed is missing.
EOF
}

log() { printf 'build_llama: %s\n' "$*" >&2; }
fail() { log "error: $*"; exit 1; }
missing() { log "error: $*"; exit 2; }
# Without it a download that Ctrl-C broke off would be blamed on the network.
trap 'log "interrupted; the next call goes on from what is complete"; exit 130' INT

# shellcheck source=vendor/llama.cpp/requirements.sh
source "$HERE/vendor/llama.cpp/requirements.sh"
# shellcheck source=vendor/llama.cpp/fetch.sh
source "$HERE/vendor/llama.cpp/fetch.sh"
# shellcheck source=vendor/llama.cpp/rpc.sh
source "$HERE/vendor/llama.cpp/rpc.sh"

# ---------------------------------------------------------------------------------------------------------- options

parse_options() {
    cuda=0 cuda_arch='' vulkan=0 opencl=0 blas=0 clblast=0 rpc=0 march=native openmp=1 tools=0 jobs='' action=build
    cuda_vmm=1 cublas_dir=''
    while (($#)); do
        case $1 in
            --cuda) cuda=1 ;;
            --vulkan) vulkan=1 ;;
            --opencl) opencl=1 ;;
            --blas) blas=1 ;;
            --clblast) clblast=1 ;;
            --rpc) rpc=1 ;;
            --openmp) openmp=1 ;;
            --no-openmp) openmp=0 ;;
            --tools) tools=1 ;;
            --print-prefix) action=print ;;
            --clean) action=clean ;;
            --cuda-arch | --march | --jobs)
                [[ $# -ge 2 && -n $2 && $2 != -* ]] || missing "$1 needs a value (see --help)"
                case $1 in
                    --cuda-arch) cuda_arch=$2 ;;
                    --march) march=$2 ;;
                    --jobs) jobs=$2 ;;
                esac
                shift
                ;;
            --help | -h) usage; exit 0 ;;
            *) missing "unknown option '$1' (see --help)" ;;
        esac
        shift
    done
    if [[ -z $jobs ]]; then
        jobs=$(nproc)
    elif [[ ! $jobs =~ ^[1-9][0-9]*$ ]]; then
        missing "--jobs needs a positive number, not '$jobs'"
    fi
    ((blas + clblast < 2)) || missing "--blas and --clblast exclude each other: ggml has one BLAS backend"
    [[ -z $cuda_arch || $cuda == 1 ]] || missing "--cuda-arch needs --cuda"
}

# -------------------------------------------------------------------------------------------------- names and paths

cmake_flags() {
    flags=(
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN;\$ORIGIN/../lib"
        -DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
        "-DGGML_OPENMP=$openmp" -DGGML_RPC=0 "-DGGML_CUDA=$cuda" "-DGGML_VULKAN=$vulkan" "-DGGML_OPENCL=$opencl"
        "-DGGML_BLAS=$((blas || clblast))"
    )
    if [[ $march == native ]]; then
        flags+=(-DGGML_NATIVE=ON)
    elif [[ $machine == aarch64 ]]; then
        flags+=(-DGGML_NATIVE=OFF "-DGGML_CPU_ARM_ARCH=$march")
    else
        # ggml turns each instruction set on by its own option; here -march alone says what the CPU has.
        flags+=(-DGGML_NATIVE=OFF "-DCMAKE_C_FLAGS=-march=$march" "-DCMAKE_CXX_FLAGS=-march=$march")
        local set
        for set in SSE42 AVX AVX2 BMI2 FMA F16C; do flags+=("-DGGML_$set=OFF"); done
    fi
    if ((cuda)); then flags+=("-DCMAKE_CUDA_COMPILER=$nvcc" "-DCMAKE_CUDA_ARCHITECTURES=$cuda_arch"); fi
    if ((cuda && !cuda_vmm)); then flags+=(-DGGML_CUDA_NO_VMM=ON); fi
    if [[ -n $cublas_dir ]]; then
        flags+=("-DCMAKE_CUDA_FLAGS=-I$cublas_dir/include" "-DCUDA_cublas_LIBRARY=$cublas_dir/lib/libcublas.so"
            "-DCUDA_cublasLt_LIBRARY=$cublas_dir/lib/libcublasLt.so")
    fi
    if ((blas)); then flags+=(-DGGML_BLAS_VENDOR=OpenBLAS); fi
    if ((clblast)); then
        flags+=(-DGGML_BLAS_VENDOR=Generic -DBLAS_LIBRARIES=clblast "-DBLAS_INCLUDE_DIRS=$HERE/vendor/llama.cpp/clblast")
    fi
    # The version is the pin's: a git repository around the cache folder must not be taken for llama.cpp's own.
    if [[ -z ${LLAMA_CPP_SOURCE:-} ]]; then
        flags+=(-DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=${pin_commit:0:9}" -DGIT_EXE=)
    fi
}

# hash TEXT...: a short digest of the arguments, one per line.
hash() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# The files that are compiled, as one digest.
tree_stamp() {
    (cd -- "$1" && find CMakeLists.txt cmake ggml include src common tools vendor -type f -print0 2>/dev/null |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
}

choose_cache() {
    [[ -n ${XDG_CACHE_HOME:-} || -n ${HOME:-} ]] || missing "neither HOME nor XDG_CACHE_HOME is set: no place for the cache"
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/lucid-llm/llama.cpp
}

choose_paths() {
    local stamp label key compiler c_compiler name variables=()
    compiler=$("${cxx[@]}" --version | head -n 1)
    c_compiler=$("${cc[@]}" --version | head -n 1)
    # Both are of one suite as a rule, and then differ in nothing but the program's name.
    if [[ ${c_compiler#* } != "${compiler#* }" ]]; then compiler+=" $c_compiler"; fi
    if ((cuda)); then compiler+=" $("$nvcc" --version | tail -n 1)"; fi
    if [[ -n ${LLAMA_CPP_SOURCE:-} ]]; then
        source_dir=$(cd -- "$LLAMA_CPP_SOURCE" 2>/dev/null && pwd) || missing "LLAMA_CPP_SOURCE: no directory '$LLAMA_CPP_SOURCE'"
        [[ -f $source_dir/include/llama.h && -f $source_dir/CMakeLists.txt ]] ||
            missing "LLAMA_CPP_SOURCE: '$source_dir' is not a llama.cpp source tree"
        for name in "${INTERNAL_HEADERS[@]}"; do
            [[ -f $source_dir/ggml/src/$name ]] ||
                missing "LLAMA_CPP_SOURCE: no ggml/src/$name in '$source_dir', which Lucid's kernels are compiled with"
        done
        stamp=$(tree_stamp "$source_dir") label=local
    else
        source_dir=$cache/source/${pin_commit:0:9}
        stamp=$pin_sha256 label=${pin_commit:0:9}
    fi
    for name in CFLAGS CXXFLAGS LDFLAGS CUDAFLAGS; do # cmake reads them by itself
        if [[ -n ${!name:-} ]]; then variables+=("$name=${!name}"); fi
    done
    key=$(hash "$source_dir" "$compiler" "$cpu_macros" "${flags[@]}" "${variables[@]}")
    build_dir=$cache/build/$label-$key
    prefix=$cache/prefix/$label-$(hash "$key" "$stamp")
}

# --------------------------------------------------------------------------------------------------------- compiling

# Reads the build's output; writes it to the log file and shows how far it is: a moving line, or a line every tenth.
show_progress() {
    local line last=-1 tenth
    while IFS= read -r line; do
        printf '%s\n' "$line" >&3
        [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
        if [[ -t 2 ]]; then
            printf '\rbuild_llama: compiling %d of %d ' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" >&2
        else
            tenth=$((10 * BASH_REMATCH[1] / BASH_REMATCH[2]))
            if ((tenth != last)); then log "compiling ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]}"; last=$tenth; fi
        fi
    done 3>>"$build_dir/build.log"
    if [[ -t 2 ]]; then printf '\n' >&2; fi
}

# compile TARGET...: configure (once per set of flags) and build.
compile() {
    local with_tools=OFF
    if ((tools)); then with_tools=ON; fi
    mkdir -p -- "$build_dir"
    log "configuring (log: $build_dir/build.log)"
    GIT_CEILING_DIRECTORIES=$(dirname -- "$source_dir") "$cmake" -S "$source_dir" -B "$build_dir" -G Ninja \
        "-DCMAKE_MAKE_PROGRAM=$ninja" "${flags[@]}" "-DLLAMA_BUILD_COMMON=$with_tools" "-DLLAMA_BUILD_TOOLS=$with_tools" \
        "-DLLAMA_BUILD_SERVER=$with_tools" >"$build_dir/build.log" 2>&1 ||
        { tail -n 30 "$build_dir/build.log" >&2; fail "cmake could not configure llama.cpp; the end of its output is above"; }
    log "compiling with $jobs jobs"
    "$cmake" --build "$build_dir" --parallel "$jobs" --target "$@" 2>&1 | show_progress ||
        { tail -n 40 "$build_dir/build.log" >&2; fail "compiling llama.cpp failed; the end of the output is above"; }
}

# copy_internal_headers DIR: copy INTERNAL_HEADERS into this folder.
copy_internal_headers() {
    local header
    for header in "${INTERNAL_HEADERS[@]}"; do
        mkdir -p -- "$(dirname -- "$1/$header")"
        cp -- "$source_dir/ggml/src/$header" "$1/$header"
    done
}

# Copy the libraries and headers of the build directory to the prefix, which appears in one rename.
install_libraries() {
    local staging=$prefix.tmp
    rm -rf -- "$staging"
    mkdir -p -- "$staging/include" "$staging/lib"
    cp -- "$source_dir"/include/llama.h "$source_dir"/ggml/include/*.h "$staging/include/"
    copy_internal_headers "$staging/include/internal"
    cp -P -- "$build_dir"/bin/libllama.so* "$build_dir"/bin/libggml*.so* "$staging/lib/"
    mv -T -- "$staging" "$prefix"
}

# Add the internal headers to a prefix that was installed without one of them.
add_internal_headers() {
    local staging=$prefix.internal.tmp
    rm -rf -- "$staging"
    copy_internal_headers "$staging"
    rm -rf -- "$prefix/include/internal"
    mv -T -- "$staging" "$prefix/include/internal"
}

# Add the programs and the libraries only they use to bin/; the last file says that all are there.
install_tools() {
    local staging=$prefix.tools.tmp file
    rm -rf -- "$staging"
    mkdir -p -- "$staging" "$prefix/bin"
    for file in "${TOOL_TARGETS[@]}"; do cp -- "$build_dir/bin/$file" "$staging/"; done
    for file in "$build_dir"/bin/lib*.so*; do
        case ${file##*/} in libllama.so* | libggml*) ;; *) cp -P -- "$file" "$staging/" ;; esac
    done
    mv -f -- "$staging"/* "$prefix/bin/"
    rmdir -- "$staging"
    touch -- "$prefix/bin/.tools"
}

# lock FILE WHAT: hold the lock on file descriptor 9 until the next lock or the end of the script.
lock() {
    exec 9>"$1"
    flock --nonblock 9 || { log "another call is $2; waiting for it"; flock 9; }
}

has_libraries() { [[ -d $prefix && ($tools == 0 || -f $prefix/bin/.tools) ]]; }
has_internal_headers() {
    local header
    for header in "${INTERNAL_HEADERS[@]}"; do [[ -f $prefix/include/internal/$header ]] || return 1; done
}
has_rpc() { [[ $rpc == 0 || -f $prefix/bin/ggml-rpc-server ]]; }
is_complete() { has_libraries && has_internal_headers && has_rpc; }

build() {
    command -v flock >/dev/null || missing "flock was not found; apt-get install util-linux"
    mkdir -p -- "$cache/build" "$cache/prefix"
    lock "$cache/lock" "fetching the source"
    if [[ -z ${LLAMA_CPP_SOURCE:-} ]]; then
        fetch_source
        ln -sfn -- "$source_dir" "$HERE/vendor/llama.cpp/source" 2>/dev/null || true # for reading only
    fi
    ensure_cmake
    ensure_cublas
    lock "$build_dir.lock" "building the same"
    if ! has_libraries; then
        local targets=(llama)
        if ((tools)); then targets+=("${TOOL_TARGETS[@]}"); fi
        compile "${targets[@]}"
        if [[ ! -d $prefix ]]; then install_libraries; fi
        if ((tools)); then install_tools; fi
    fi
    if ! has_internal_headers; then add_internal_headers; fi
    if ! has_rpc; then install_rpc; fi
    log "done: $prefix"
}

clean() {
    if [[ -d $cache/build ]]; then lock "$build_dir.lock" "building the same"; fi
    rm -rf -- "$prefix" "$prefix".*tmp "$build_dir"
    log "removed $prefix and its build directory"
}

main() {
    parse_options "$@"
    read_pin "$HERE/vendor/llama.cpp/pin"
    choose_cache
    find_compilers
    resolve_cpu
    check_backends
    cmake_flags
    choose_paths
    case $action in
        print) printf '%s\n' "$prefix"; return ;;
        clean) clean; return ;;
    esac
    if ! is_complete; then build; fi
    printf '%s\n' "$prefix"
}

# In one line: a script that is replaced while it runs must not be read any further.
main "$@"; exit
