// Gives pages of mapped files back, whose weights have been packed.

#include <sys/mman.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

extern "C" void lucid_forget_pages(const char * path) {
    // proc(5): "from-to permissions offset device inode   path"
    std::ifstream maps("/proc/self/maps");
    const std::string end = std::string(" ") + path;
    for (std::string line; std::getline(maps, line);) {
        uintptr_t from, to;
        char permissions[5];
        if (line.size() <= end.size() || line.compare(line.size() - end.size(), end.size(), end) != 0 ||
            std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s", &from, &to, permissions) != 3) {
            continue;
        }
        if (permissions[1] == '-') {  // nothing of ours is written there that could be lost
            madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED);
        }
    }
}
