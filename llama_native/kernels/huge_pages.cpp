// Large buffers of ggml's CPU backend (KV cache, packed weights, activations) in huge pages, where the system gives them
// to those that ask: "madvise" in /sys/kernel/mm/transparent_hugepage/enabled, as most distributions have it.
//
// A decode step streams through all of them once. In pages of 4 KiB each costs a walk through the page tables, under a
// hypervisor through two.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "ggml-backend-impl.h"

namespace {

constexpr size_t large = size_t(4) << 20;

ggml_backend_buffer_t (*allocate_plain)(ggml_backend_buffer_type_t, size_t) = nullptr;

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = allocate_plain(type, size);
#if defined(MADV_HUGEPAGE)
    if (buffer != nullptr && size >= large) {
        const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), begin = uintptr_t(ggml_backend_buffer_get_base(buffer));
        const uintptr_t first = (begin + page - 1) / page * page, end = (begin + size) / page * page;
        madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);  // a refusal costs speed only
    }
#endif
    return buffer;
}

}  // namespace

extern "C" void lucid_huge_pages_install(void) {
    auto & interface = ggml_backend_cpu_buffer_type()->iface;
    if (allocate_plain == nullptr) {
        allocate_plain = interface.alloc_buffer;
        interface.alloc_buffer = allocate;
    }
}
