#include "copies.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "ggml.h"

namespace lucid::copies {

namespace {

// What is known of one tensor of a cache: keys or values of a layer, [row, cells, streams].
struct cache {
    int64_t cells;                // of each stream
    size_t row_bytes;
    std::vector<shared> streams;
    std::vector<int64_t> used;    // of each stream: no cell from here on holds anything

    cache(const ggml_tensor * tensor, bool empty)
        : cells(tensor->ne[1]), row_bytes(tensor->nb[1]), streams(size_t(tensor->ne[2])),
          used(size_t(tensor->ne[2]), empty ? 0 : tensor->ne[1]) {}

    size_t stream_bytes() const { return size_t(cells) * row_bytes; }

    // Cells from `first` to `last` of `stream` are given other contents.
    void wrote(int64_t stream, int64_t first, int64_t last) {
        used[size_t(stream)] = std::max(used[size_t(stream)], last + 1);
        for (int64_t other = 0; other < int64_t(streams.size()); other++) {
            shared & known = streams[size_t(other)];
            if (other == stream || known.origin == stream) {
                known.cells = std::min(known.cells, first);
            }
        }
    }

    // All that `source` holds becomes what `target` holds.
    void copied(int64_t source, int64_t target) {
        wrote(target, 0, 0);
        // Several copies of one stream share its cells, not one another's.
        const shared known = streams[size_t(source)];
        const bool itself = known.cells < used[size_t(source)] / 2;
        streams[size_t(target)] = itself ? shared{source, used[size_t(source)]} : known;
        used[size_t(target)] = used[size_t(source)];
    }
};

std::mutex lock;  // of what follows; what a cache holds changes only between the graphs of its one context

// By the address of the tensor's data. Never destroyed: a thread may compute until the very end of the process.
std::map<const char *, cache> & caches() {
    static auto * const all = new std::map<const char *, cache>;
    return *all;
}

// Buffers in which nothing was written since they were cleared, but by SET_ROWS.
std::map<const char *, size_t> & clean() {
    static auto * const all = new std::map<const char *, size_t>;
    return *all;
}

const char * address(const void * data) { return static_cast<const char *>(data); }

// The entry of the range that `at` lies in, by `size` of an entry.
template <typename Map, typename Size>
typename Map::iterator holding(Map & map, const char * at, const Size & size) {
    auto found = map.upper_bound(at);
    if (found == map.begin()) {
        return map.end();
    }
    --found;
    return std::less<const char *>()(at, found->first + size(found->second)) ? found : map.end();
}

auto cache_holding(const char * at) {
    return holding(caches(), at, [](const cache & one) { return one.stream_bytes() * one.streams.size(); });
}

auto clean_holding(const char * at) {
    return holding(clean(), at, [](size_t size) { return size; });
}

void forget(const char * from, size_t size) {
    auto & all = caches();
    const auto first = cache_holding(from);
    all.erase(first == all.end() ? all.lower_bound(from) : first, all.lower_bound(from + size));
}

// Something was written that is no row of a cache and no copy of a stream.
void wrote_otherwise(const char * from, size_t size) {
    forget(from, size);
    const auto found = clean_holding(from);
    if (found != clean().end()) {
        clean().erase(found);
    }
}

// A tensor of a cache: what SET_ROWS writes whole rows of.
const ggml_tensor * cache_of(const ggml_tensor * rows) {
    const ggml_tensor * const whole = rows->view_src;
    const bool plain = whole != nullptr && whole->data != nullptr && rows->data == whole->data && rows->nb[1] == whole->nb[1] &&
                       rows->ne[0] == whole->ne[0] && whole->ne[3] == 1 && ggml_is_contiguous(whole) &&
                       ggml_nelements(rows) == ggml_nelements(whole);
    return plain ? whole : nullptr;
}

void will_set_rows(const ggml_tensor * op) {
    const ggml_tensor *whole = cache_of(op), *rows = op->src[1];
    if (whole == nullptr || rows->type != GGML_TYPE_I64 || !ggml_is_contiguous(rows) || rows->ne[1] != 1 || rows->ne[2] != 1) {
        return wrote_otherwise(address(op->view_src->data), ggml_nbytes(op->view_src));
    }
    auto found = caches().find(address(whole->data));
    if (found == caches().end()) {
        const bool empty = clean_holding(address(whole->data)) != clean().end();
        found = caches().emplace(address(whole->data), cache(whole, empty)).first;
    }
    cache & known = found->second;
    const auto * const written = static_cast<const int64_t *>(rows->data);
    for (int64_t i = 0; i < rows->ne[0];) {
        const int64_t stream = written[i] / known.cells, begin = stream * known.cells;
        int64_t first = written[i], last = first;
        for (; i < rows->ne[0] && written[i] >= begin && written[i] < begin + known.cells; i++) {
            first = std::min(first, written[i]);
            last = std::max(last, written[i]);
        }
        known.wrote(stream, first - begin, last - begin);
    }
}

// What the buffers' functions were: the same for all of ggml's CPU backend.
ggml_backend_buffer_i plain;
std::once_flag plain_known;

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    {
        const std::lock_guard<std::mutex> held(lock);
        const char *to = address(tensor->data) + offset, *from = address(data);
        const auto target = cache_holding(to);
        if (target != caches().end() && cache_holding(from) == target) {
            cache & known = target->second;
            const size_t stream = known.stream_bytes();
            if (size == stream && size_t(to - target->first) % stream == 0 && size_t(from - target->first) % stream == 0) {
                const int64_t source = (from - target->first) / int64_t(stream);
                size = size_t(known.used[size_t(source)]) * known.row_bytes;
                known.copied(source, (to - target->first) / int64_t(stream));
            } else {
                wrote_otherwise(to, size);
            }
        } else if (tensor->data != nullptr) {
            wrote_otherwise(to, size);
        }
    }
    if (size != 0) {
        plain.set_tensor(buffer, tensor, data, offset, size);
    }
}

void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    {
        const std::lock_guard<std::mutex> held(lock);
        wrote_otherwise(address(tensor->data) + offset, size);
    }
    plain.memset_tensor(buffer, tensor, value, offset, size);
}

bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * source, ggml_tensor * target) {
    {
        const std::lock_guard<std::mutex> held(lock);
        wrote_otherwise(address(target->data), ggml_nbytes(target));
    }
    return plain.cpy_tensor(buffer, source, target);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    {
        const std::lock_guard<std::mutex> held(lock);
        const char * const base = address(ggml_backend_buffer_get_base(buffer));
        forget(base, buffer->size);
        clean()[base] = buffer->size;
    }
    plain.clear(buffer, value);
}

void free_buffer(ggml_backend_buffer_t buffer) {
    {
        const std::lock_guard<std::mutex> held(lock);
        wrote_otherwise(address(ggml_backend_buffer_get_base(buffer)), buffer->size);
    }
    plain.free_buffer(buffer);
}

ggml_backend_buffer_t (*allocate_unwatched)(ggml_backend_buffer_type_t, size_t) = nullptr;

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = allocate_unwatched(type, size);
    if (buffer != nullptr) {
        std::call_once(plain_known, [&] { plain = buffer->iface; });
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.memset_tensor = memset_tensor;
        buffer->iface.cpy_tensor = cpy_tensor;
        buffer->iface.clear = clear;
        buffer->iface.free_buffer = free_buffer;
    }
    return buffer;
}

}  // namespace

void will_compute(const ggml_tensor * op) {
    if (op->view_src == nullptr || op->view_src->data == nullptr) {
        return;
    }
    const std::lock_guard<std::mutex> held(lock);
    if (op->op == GGML_OP_SET_ROWS) {
        will_set_rows(op);
    } else if (cache_holding(address(op->view_src->data)) != caches().end()) {
        wrote_otherwise(address(op->view_src->data), ggml_nbytes(op->view_src));
    }
}

const shared * of(const ggml_tensor * view) {
    if (view->view_src == nullptr) {
        return nullptr;
    }
    const std::lock_guard<std::mutex> held(lock);
    const auto found = caches().find(address(view->view_src->data));
    return found == caches().end() ? nullptr : found->second.streams.data();
}

void install() {
    auto & interface = ggml_backend_cpu_buffer_type()->iface;
    if (interface.alloc_buffer != allocate) {
        allocate_unwatched = interface.alloc_buffer;
        interface.alloc_buffer = allocate;
    }
}

}  // namespace lucid::copies
