// What the processor can do that our kernels need, and the attribute that lets a function use it, whatever the rest of
// the extension is compiled for.
#pragma once

#if defined(__x86_64__)

#include <cpuid.h>

#define LUCID_AVX2 __attribute__((target("avx2,fma,f16c")))

// The same and AVX-512's products of bytes, in registers of AVX2's size.
#define LUCID_VNNI __attribute__((target("avx2,fma,f16c,avx512vl,avx512vnni")))

namespace lucid {

// AVX2, FMA and F16C. Compilers of some years ago do not know the name of the last.
inline bool has_avx2() {
    unsigned eax, ebx, ecx, edx;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C) != 0;
}

// What AVX-512 has for products of bytes, beside `has_avx2`.
inline bool has_vnni() { return has_avx2() && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"); }

}  // namespace lucid

#else

namespace lucid {
inline bool has_avx2() { return false; }
inline bool has_vnni() { return false; }
}  // namespace lucid

#endif

namespace lucid {

// Whether kernels take AVX-512's products of bytes: where there are any, unless `lucid_use_vnni` forbids it.
bool uses_vnni();

}  // namespace lucid
