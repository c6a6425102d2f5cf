#include "copies.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml.h"

namespace lucid::copies {

namespace {

// What is known of one tensor of a cache: keys or values of a layer, [row, cells, streams].
struct cache {
    int64_t cells;  // of each stream
    int64_t row_bytes;
    std::vector<shared> streams;
    std::vector<int64_t> used;  // of each stream: from this cell on it is as it was when the buffer was cleared

    explicit cache(const ggml_tensor * tensor)
        : cells(tensor->ne[1]), row_bytes(int64_t(tensor->nb[1])), streams(size_t(tensor->ne[2])), used(size_t(tensor->ne[2]), 0) {}

    int64_t count() const { return int64_t(streams.size()); }
    int64_t stream_bytes() const { return cells * row_bytes; }
    int64_t bytes() const { return stream_bytes() * count(); }

    bool is(const ggml_tensor * tensor) const {
        return tensor->ne[1] == cells && int64_t(tensor->nb[1]) == row_bytes && tensor->ne[2] == count();
    }

    // Cells from `first` to `last` of `stream` are given other contents.
    void wrote(int64_t stream, int64_t first, int64_t last) {
        used[size_t(stream)] = std::max(used[size_t(stream)], last + 1);
        for (int64_t other = 0; other < count(); other++) {
            shared & known = streams[size_t(other)];
            if (other == stream || known.origin == stream) {
                known.cells = std::min(known.cells, first);
            }
        }
    }

    // Bytes from `begin` on are given other contents.
    void wrote_bytes(int64_t begin, int64_t end) {
        begin = std::max<int64_t>(begin, 0);
        end = std::min(end, bytes());
        for (int64_t stream = begin / stream_bytes(); begin < end; stream++) {
            const int64_t start = stream * stream_bytes(), stop = std::min(end, start + stream_bytes());
            wrote(stream, (begin - start) / row_bytes, (stop - 1 - start) / row_bytes);
            begin = stop;
        }
    }

    // All of `source` becomes what `target` holds. Returns how many cells that changes.
    int64_t copied(int64_t source, int64_t target) {
        const int64_t changed = std::max(used[size_t(source)], used[size_t(target)]);
        wrote(target, 0, -1);
        // Copies of a copy are best read where the others are, unless most of what it holds is its own.
        const shared known = streams[size_t(source)];
        const bool own = known.cells < used[size_t(source)] / 2;
        const int64_t origin = own ? source : known.origin, same = own ? used[size_t(source)] : known.cells;
        streams[size_t(target)] = {origin, (origin - target) * stream_bytes(), same};
        used[size_t(target)] = used[size_t(source)];
        return changed;
    }

    void forget() {
        std::fill(streams.begin(), streams.end(), shared());
        std::fill(used.begin(), used.end(), cells);
    }
};

// A buffer that was cleared once, as those of caches are and those of activations are not.
struct cleared {
    int64_t size;
    bool clean = true;  // nothing was written into what is no tensor of a cache as far as we know
    std::map<const char *, cache> caches;  // by the address of the tensor's data
};

std::mutex lock;  // of what follows; what a cache holds changes only between the graphs of its one context

// By address. Never destroyed: a thread may compute until the very end of the process.
std::map<const char *, cleared> & buffers() {
    static auto * const all = new std::map<const char *, cleared>;
    return *all;
}

const char * address(const void * data) { return static_cast<const char *>(data); }

template <typename Map, typename Size>
auto holding(Map & map, const char * at, const Size & size) -> decltype(&*map.begin()) {
    auto found = map.upper_bound(at);
    if (found == map.begin()) {
        return nullptr;
    }
    --found;
    return at - found->first < size(found->second) ? &*found : nullptr;
}

auto buffer_holding(const char * at) {
    return holding(buffers(), at, [](const cleared & one) { return one.size; });
}

auto cache_holding(cleared & buffer, const char * at) {
    return holding(buffer.caches, at, [](const cache & one) { return one.bytes(); });
}

// Bytes of whatever tensor are given other contents.
void wrote(const char * from, size_t size) {
    const auto buffer = buffer_holding(from);
    if (buffer == nullptr) {
        return;
    }
    const auto found = cache_holding(buffer->second, from);
    if (found == nullptr) {
        buffer->second.clean = false;
    } else {
        found->second.wrote_bytes(from - found->first, from - found->first + int64_t(size));
    }
}

// Whether SET_ROWS writes whole cells of one of a cache's tensors, and which ones is known before the graph is computed.
bool writes_cells(const ggml_tensor * op) {
    const ggml_tensor *whole = op->view_src, *rows = op->src[1];
    const bool cells = op->data == whole->data && op->nb[1] == whole->nb[1] && op->ne[0] == whole->ne[0] && op->ne[2] == 1 &&
                       op->ne[3] == 1 && op->ne[1] == whole->ne[1] * whole->ne[2] && whole->ne[3] == 1 && ggml_is_contiguous(whole);
    const bool known = rows->op == GGML_OP_NONE && rows->view_src == nullptr && rows->data != nullptr &&
                       rows->type == GGML_TYPE_I64 && ggml_is_contiguous(rows) && ggml_nelements(rows) == rows->ne[0];
    return cells && known;
}

// What is known of the cache's tensor, from its first row on; null if it is not one, or has no streams.
cache * cache_of(const ggml_tensor * whole) {
    const auto buffer = buffer_holding(address(whole->data));
    if (buffer == nullptr || whole->ne[2] == 1) {
        return nullptr;
    }
    const auto [found, fresh] = buffer->second.caches.try_emplace(address(whole->data), whole);
    if (!found->second.is(whole)) {
        found->second.forget();
        return nullptr;
    }
    if (fresh && !buffer->second.clean) {
        found->second.forget();
    }
    return &found->second;
}

void will_set_rows(const ggml_tensor * op) {
    cache * const known = writes_cells(op) ? cache_of(op->view_src) : nullptr;
    if (known == nullptr) {
        return wrote(address(op->view_src->data), ggml_nbytes(op->view_src));
    }
    const ggml_tensor * const rows = op->src[1];
    const auto * const written = static_cast<const int64_t *>(rows->data);
    for (int64_t i = 0; i < rows->ne[0];) {
        const int64_t stream = written[i] / known->cells, begin = stream * known->cells;
        if (written[i] < 0 || stream >= known->count()) {
            return known->forget();  // ggml will refuse it
        }
        int64_t first = written[i], last = first;
        for (; i < rows->ne[0] && written[i] >= begin && written[i] < begin + known->cells; i++) {
            first = std::min(first, written[i]);
            last = std::max(last, written[i]);
        }
        known->wrote(stream, first - begin, last - begin);
    }
}

// What the buffers' functions were: the same for all of ggml's CPU backend.
ggml_backend_buffer_i unwatched;
std::once_flag unwatched_known;

// Notes what is written; of a copy of a stream, returns how many bytes of it make a difference.
size_t will_set(const char * to, const char * from, size_t size) {
    const std::lock_guard<std::mutex> held(lock);
    const auto buffer = buffer_holding(to);
    const auto found = buffer == nullptr ? nullptr : cache_holding(buffer->second, to);
    if (found != nullptr) {
        cache & known = found->second;
        const int64_t target = to - found->first, source = from - found->first, stream = known.stream_bytes();
        if (int64_t(size) == stream && source >= 0 && source < known.bytes() && source % stream == 0 && target % stream == 0) {
            return size_t(known.copied(source / stream, target / stream) * known.row_bytes);
        }
    }
    wrote(to, size);
    return size;
}

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    size = will_set(address(tensor->data) + offset, address(data), size);
    if (size != 0) {
        unwatched.set_tensor(buffer, tensor, data, offset, size);
    }
}

void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    {
        const std::lock_guard<std::mutex> held(lock);
        wrote(address(tensor->data) + offset, size);
    }
    unwatched.memset_tensor(buffer, tensor, value, offset, size);
}

bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * source, ggml_tensor * target) {
    {
        const std::lock_guard<std::mutex> held(lock);
        wrote(address(target->data), ggml_nbytes(target));
    }
    return unwatched.cpy_tensor(buffer, source, target);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    {
        const std::lock_guard<std::mutex> held(lock);
        buffers()[address(ggml_backend_buffer_get_base(buffer))] = {int64_t(buffer->size)};
    }
    unwatched.clear(buffer, value);
}

void free_buffer(ggml_backend_buffer_t buffer) {
    {
        const std::lock_guard<std::mutex> held(lock);
        buffers().erase(address(ggml_backend_buffer_get_base(buffer)));
    }
    unwatched.free_buffer(buffer);
}

ggml_backend_buffer_t (*allocate_unwatched)(ggml_backend_buffer_type_t, size_t) = nullptr;

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = allocate_unwatched(type, size);
    if (buffer != nullptr) {
        std::call_once(unwatched_known, [&] { unwatched = buffer->iface; });
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
    } else {
        wrote(address(op->data), ggml_nbytes(op));
    }
}

const shared * of(const ggml_tensor * view) {
    const ggml_tensor * const whole = view->view_src;
    if (whole == nullptr || whole->data == nullptr) {
        return nullptr;
    }
    const std::lock_guard<std::mutex> held(lock);
    const auto buffer = buffer_holding(address(whole->data));
    if (buffer == nullptr) {
        return nullptr;
    }
    const auto found = buffer->second.caches.find(address(whole->data));
    if (found == buffer->second.caches.end()) {
        return nullptr;
    }
    const cache & known = found->second;
    const int64_t offset = address(view->data) - found->first, first = offset / known.stream_bytes();
    const bool cells = int64_t(view->nb[1]) == known.row_bytes && view->ne[1] <= known.cells &&
                       (view->ne[3] == 1 || int64_t(view->nb[3]) == known.stream_bytes()) && offset >= 0 &&
                       offset % known.stream_bytes() < known.row_bytes && first + view->ne[3] <= known.count();
    return known.is(whole) && cells ? known.streams.data() + first : nullptr;
}

void install() {
    auto & interface = ggml_backend_cpu_buffer_type()->iface;
    if (allocate_unwatched == nullptr) {
        allocate_unwatched = interface.alloc_buffer;
        interface.alloc_buffer = allocate;
    }
}

}  // namespace lucid::copies

extern "C" int64_t lucid_shared_cells(void) {
    const std::lock_guard<std::mutex> held(lucid::copies::lock);
    int64_t count = 0;
    for (const auto & buffer : lucid::copies::buffers()) {
        for (const auto & cache : buffer.second.caches) {
            for (const auto & stream : cache.second.streams) {
                count += stream.cells;
            }
        }
    }
    return count;
}
