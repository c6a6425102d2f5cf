// What the processor can do that our kernels need, and the attribute that lets a function use it, whatever the rest of
// the extension is compiled for.
#pragma once

#if defined(__x86_64__)

#include <cpuid.h>

#define LUCID_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace lucid {

// AVX2, FMA and F16C. Compilers of some years ago do not know the name of the last.
inline bool has_avx2() {
    unsigned eax, ebx, ecx, edx;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C) != 0;
}

}  // namespace lucid

#else

namespace lucid {
inline bool has_avx2() { return false; }
}  // namespace lucid

#endif
