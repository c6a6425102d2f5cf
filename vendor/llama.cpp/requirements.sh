# shellcheck shell=bash disable=SC2034,SC2154 # the variables are build_llama.sh's
#
# What a build needs from the machine: compilers, the CPU's name, and each backend's tools and headers. Sourced by
# build_llama.sh. Whatever is missing ends the script with one line, before anything is downloaded or compiled.
#
# Reads the options (cuda, vulkan, ...) and cache; sets cc, cxx, machine, cpu_macros, nvcc, cuda_arch, cuda_vmm and
# cublas_dir (empty when the CUDA toolkit has cuBLAS).

# compiles INCLUDE [LINKER-FLAG...]: whether a C++ file with that header compiles and links.
compiles() {
    local header=$1
    shift
    printf '#include <%s>\nint main() { return 0; }\n' "$header" |
        "${cxx[@]}" -std=c++17 -x c++ - -o /dev/null "$@" 2>/dev/null
}

find_compilers() {
    local candidate
    if [[ -z ${CXX:-} ]]; then
        for candidate in c++ g++ clang++; do
            if command -v "$candidate" >/dev/null; then CXX=$candidate; break; fi
        done
    fi
    if [[ -z ${CC:-} ]]; then
        for candidate in cc gcc clang; do
            if command -v "$candidate" >/dev/null; then CC=$candidate; break; fi
        done
    fi
    read -ra cc <<<"${CC:-}"
    read -ra cxx <<<"${CXX:-}"
    if [[ ${#cc[@]} == 0 || ${#cxx[@]} == 0 ]] || ! compiles string; then
        missing "no working C++17 compiler found; install one: apt-get install g++"
    fi
    "${cc[@]}" -E -x c /dev/null >/dev/null 2>&1 || missing "no working C compiler found; install one: apt-get install gcc"
    export CC CXX
}

# The compiler flag for --march, and what the compiler makes of it: a native build is valid only for equal CPUs.
resolve_cpu() {
    machine=$(uname -m)
    local flag=-march=$march
    [[ $machine == aarch64 && $march == native ]] && flag=-mcpu=native
    cpu_macros=$("${cc[@]}" "$flag" -dM -E -x c /dev/null 2>/dev/null | LC_ALL=C sort) ||
        missing "the compiler does not know --march $march for $machine"
}

find_cuda() {
    nvcc=${CUDACXX:-}
    local candidate
    for candidate in nvcc /usr/local/cuda/bin/nvcc; do
        [[ -n $nvcc ]] || nvcc=$(command -v "$candidate" || true)
    done
    [[ -n $nvcc ]] || nvcc=nvcc
    "$nvcc" --version >/dev/null 2>&1 ||
        missing "--cuda needs nvcc, which was not found; install the CUDA toolkit (apt-get install nvidia-cuda-toolkit)"
    local version
    version=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    # Some toolkits come in parts. cuBLAS can be had from the package index; build_llama.sh fetches it to this folder.
    if ! printf '#include <cublas_v2.h>\n' | "$nvcc" -x cu -E - >/dev/null 2>&1; then
        cublas_dir=$cache/cublas-$version
    fi
    # Without the driver's library to link with, ggml does without virtual memory management on the GPU.
    printf 'int main() { return 0; }\n' | "$nvcc" -x cu - -o /dev/null -lcuda >/dev/null 2>&1 || cuda_vmm=0
    if [[ -z $cuda_arch ]]; then
        cuda_arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u | paste -sd ';' || true)
        [[ $cuda_arch =~ ^[0-9\;]+$ ]] ||
            missing "--cuda found no NVIDIA GPU on this machine to build for; name the architectures: --cuda-arch 90"
    fi
}

check_backends() {
    if ((cuda)); then find_cuda; fi
    if ((vulkan)); then
        command -v glslc >/dev/null || missing "--vulkan needs glslc, which was not found; apt-get install glslc"
        compiles vulkan/vulkan.hpp -lvulkan ||
            missing "--vulkan needs the Vulkan headers and loader; apt-get install libvulkan-dev"
        printf '#include <vulkan/vulkan.h>\n#ifndef VK_EXT_layer_settings\n#error old\n#endif\n' |
            "${cxx[@]}" -x c++ -E - >/dev/null 2>&1 ||
            missing "--vulkan needs newer Vulkan headers, with VK_EXT_layer_settings; Debian 12's are too old, the Vulkan SDK's are not"
        compiles spirv/unified1/spirv.hpp || missing "--vulkan needs the SPIR-V headers; apt-get install spirv-headers"
    fi
    if ((opencl)); then
        compiles CL/cl.h -lOpenCL ||
            missing "--opencl needs the OpenCL headers and loader; apt-get install opencl-headers ocl-icd-opencl-dev"
    fi
    if ((blas)); then
        pkg-config --exists openblas 2>/dev/null ||
            missing "--blas needs OpenBLAS; apt-get install libopenblas-dev pkg-config"
    fi
    if ((clblast)); then
        compiles clblast_netlib_c.h -lclblast || missing "--clblast needs CLBlast with its CBLAS (Netlib) interface" \
            "(clblast_netlib_c.h, libclblast), which was not found; --vulkan and --opencl use the GPU without it"
    fi
}
