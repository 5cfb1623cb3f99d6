// Parts of one job, shared among the caller and threads of a pool.
//
// The caller claims parts like everyone else and waits only for parts that a helper has begun: a pool that is busy with
// other work costs nothing. A decoding step is a row of short jobs, so a helper stays for a while behind each and looks
// for the next one, since waking it again takes longer than most jobs last.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace gelato {

class Team {
 public:
  using Task = void (*)(void* context, int64_t part);

  static constexpr int64_t kMostParts = 4096;
  static constexpr int kMostHelpers = 15;  // Assumed: these products are bound by memory, which a few cores exhaust.

  // Runs task(context, 0 .. parts - 1), in any order, and returns when all are done. `schedule` is given a function to
  // run on another thread, now or later.
  template <class Schedule>
  static void run(int64_t parts, int64_t threads, Task task, void* context, const Schedule& schedule) {
    Job* job = parts > 1 && threads > 1 ? free_job() : nullptr;
    if (!job) {
      for (int64_t part = 0; part < parts; ++part) task(context, part);
      return;
    }
    job->task = task;
    job->context = context;
    job->done.store(0, std::memory_order_relaxed);
    job->ticket.store(static_cast<uint32_t>(parts) << 16, std::memory_order_release);
    int64_t wanted = threads - 1 < parts - 1 ? threads - 1 : parts - 1;
    if (wanted > kMostHelpers) wanted = kMostHelpers;
    for (int present = helpers().load(); present < wanted;)
      if (helpers().compare_exchange_weak(present, present + 1)) schedule(help);
    while (job->work()) {
    }
    for (int turns = 0; job->done.load(std::memory_order_acquire) < parts; ++turns) pause(turns);
    job->taken.store(false, std::memory_order_release);
  }

 private:
  static constexpr int kJobs = 8;  // At once: one for each thread that runs a program.
  static constexpr std::chrono::microseconds kStay{50};

  struct alignas(64) Job {
    // The part to be claimed next (low half) of how many (high half), in one number: who claims a part knows that the
    // job is on and its caller waiting, and who comes late claims nothing. Jobs live forever, so anyone may look.
    std::atomic<uint32_t> ticket{0};
    std::atomic<int64_t> done{0};
    std::atomic<bool> taken{false};
    Task task = nullptr;
    void* context = nullptr;

    bool work() {
      uint32_t seen = ticket.load(std::memory_order_relaxed);
      if ((seen & 0xFFFFu) >= seen >> 16) return false;
      seen = ticket.fetch_add(1, std::memory_order_acq_rel);
      if ((seen & 0xFFFFu) >= seen >> 16) return false;
      task(context, seen & 0xFFFFu);
      done.fetch_add(1, std::memory_order_acq_rel);
      return true;
    }
  };

  static Job* jobs() {
    static Job all[kJobs];
    return all;
  }

  static std::atomic<int>& helpers() {
    static std::atomic<int> present{0};
    return present;
  }

  static Job* free_job() {
    for (int i = 0; i < kJobs; ++i)
      if (!jobs()[i].taken.exchange(true, std::memory_order_acquire)) return jobs() + i;
    return nullptr;
  }

  static void help() {
    auto last = std::chrono::steady_clock::now();
    for (int turns = 0;; ++turns) {
      bool worked = false;
      for (int i = 0; i < kJobs; ++i) worked |= jobs()[i].work();
      const auto now = std::chrono::steady_clock::now();
      if (worked) last = now;
      if (now - last > kStay) break;
      pause(0);
    }
    helpers().fetch_sub(1);
  }

  static void pause(int turns) {
    if (turns > 1000) return std::this_thread::yield();  // The helper has lost its core.
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
};

}  // namespace gelato
