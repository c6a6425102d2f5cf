// The compute threads that OpenMP keeps for every thread that ever computed.

#include "guard.hpp"

// OpenMP 5.0, section 3.6.1; weak, as ggml can be built without OpenMP.
extern "C" int omp_pause_resource_all(int kind) __attribute__((weak));

extern "C" void lucid_release_compute_threads(void) {
    const int soft = 1;
    if (omp_pause_resource_all != nullptr) {
        omp_pause_resource_all(soft);
    }
}
