// The part of OpenMP's runtime that the kernels call, on std::thread, for builds with the thread sanitizer: libgomp waits on
// futexes that the sanitizer does not see, so every result that one thread takes from another would count as a race. Here
// threads are made and joined, and barriers are waited at, in the sanitizer's sight. Loops hand out their chunks by relaxed
// atomics, which order nothing: a race between two chunks is not hidden.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int kLoops = 16;  // with chunks handed out, in one parallel region

struct Team {
  int size;
  std::atomic<long> taken[kLoops] = {};  // chunks of each loop
  std::mutex mutex;
  std::condition_variable all_here;
  int waiting = 0;
  long generation = 0;

  void barrier() {
    std::unique_lock<std::mutex> lock(mutex);
    const long mine = generation;
    if (++waiting == size) {
      waiting = 0;
      ++generation;
      all_here.notify_all();
    } else {
      all_here.wait(lock, [&] { return generation != mine; });
    }
  }
};

struct Loop {
  int number = 0;  // in this region
  long start = 0, end = 0, step = 1, chunk = 1;
};

thread_local Team* team = nullptr;
thread_local int thread_number = 0;
thread_local Loop loop;

void run(void (*body)(void*), void* data, unsigned threads, const Loop& first) {
  Team here;
  here.size = threads ? int(threads) : 1;
  const auto work = [&](int number) {
    team = &here;
    thread_number = number;
    loop = first;
    body(data);
    team = nullptr;
  };
  std::vector<std::thread> others;
  for (int number = 1; number < here.size; ++number) others.emplace_back(work, number);
  work(0);
  for (std::thread& other : others) other.join();
}

}  // namespace

extern "C" {

int omp_get_num_threads() { return team ? team->size : 1; }
int omp_get_thread_num() { return thread_number; }

void GOMP_barrier() { team->barrier(); }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) { run(body, data, threads, {}); }

void GOMP_parallel_loop_nonmonotonic_dynamic(void (*body)(void*), void* data, unsigned threads, long start, long end,
                                             long step, long chunk, unsigned) {
  run(body, data, threads, {0, start, end, step, chunk});
}

bool GOMP_loop_nonmonotonic_dynamic_next(long* begin, long* stop) {
  const long taken = team->taken[loop.number].fetch_add(1, std::memory_order_relaxed);
  const long from = loop.start + taken * loop.chunk * loop.step, to = from + loop.chunk * loop.step;
  if (from >= loop.end) return false;
  *begin = from;
  *stop = to < loop.end ? to : loop.end;
  return true;
}

bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long* begin, long* stop) {
  loop = {loop.number, start, end, step, chunk};
  return GOMP_loop_nonmonotonic_dynamic_next(begin, stop);
}

void GOMP_loop_end_nowait() { ++loop.number; }

void GOMP_loop_end() {
  GOMP_loop_end_nowait();
  team->barrier();
}

}  // extern "C"
