// A pool of threads for phases of a few microseconds. Tasks are handed out one at a time, so a thread that the
// system has taken off its core delays one task, and one that still sleeps delays nothing. Threads spin briefly
// between phases, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
inline void relax() { _mm_pause(); }
#else
inline void relax() { std::this_thread::yield(); }
#endif

class ThreadPool {
public:
    explicit ThreadPool(int threads) {
        try {
            for (int index = 1; index < threads; ++index) workers_.emplace_back([this, index] { work(index); });
        } catch (...) {  // no destructor runs, and a thread that is not joined ends the process
            stop();
            throw;
        }
    }

    ~ThreadPool() { stop(); }

    int size() const { return int(workers_.size()) + 1; }

    // Calls function(task, thread) for each task below `tasks`, and returns when all are done.
    template <class Function>
    void run(int tasks, const Function& function) {
        if (tasks <= 1 || workers_.empty()) {
            for (int task = 0; task < tasks; ++task) call<Function>(&function, task, 0);
            return;
        }
        context_ = &function;
        call_ = call<Function>;
        done_.store(0, std::memory_order_relaxed);
        drain(start(tasks), 0);
        for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; ++spins) {
            spins < SPINS ? relax() : std::this_thread::yield();
        }
    }

private:
    // Never inlined: two copies of a task, each optimised in its place, could round differently, and a row's numbers
    // would depend on how many there are.
    template <class Function>
    [[gnu::noinline]] static void call(const void* function, int task, int thread) {
        (*static_cast<const Function*>(function))(task, thread);
    }

    // Phase, number of tasks and next task share one word: a task is taken only from the phase it belongs to.
    static constexpr int SPINS = 4000;
    static constexpr int BITS = 20;
    static constexpr uint64_t MASK = (uint64_t(1) << BITS) - 1;
    static constexpr uint64_t PHASES = ~uint64_t(0) >> (2 * BITS);

    void stop() {
        stopping_ = true;
        start(0);
        for (auto& worker : workers_) worker.join();
    }

    uint64_t start(int tasks) {
        const uint64_t phase = ((state_.load(std::memory_order_relaxed) >> (2 * BITS)) + 1) & PHASES;
        state_.store(phase << (2 * BITS) | uint64_t(tasks) << BITS, std::memory_order_seq_cst);
        if (sleeping_.load(std::memory_order_seq_cst) > 0) state_.notify_all();
        return phase;
    }

    void drain(uint64_t phase, int thread) {
        uint64_t state = state_.load(std::memory_order_acquire);
        while (state >> (2 * BITS) == phase && (state & MASK) < (state >> BITS & MASK)) {
            if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
            call_(context_, int(state & MASK), thread);
            done_.fetch_add(1, std::memory_order_release);
            state = state_.load(std::memory_order_acquire);
        }
    }

    void work(int thread) {
        uint64_t seen = 0;
        while (!stopping_) {
            uint64_t state = state_.load(std::memory_order_acquire);
            for (int spins = 0; state >> (2 * BITS) == seen; state = state_.load(std::memory_order_acquire)) {
                if (++spins < SPINS) {
                    relax();
                    continue;
                }
                sleeping_.fetch_add(1, std::memory_order_seq_cst);
                state_.wait(state, std::memory_order_seq_cst);
                sleeping_.fetch_sub(1, std::memory_order_seq_cst);
            }
            seen = state >> (2 * BITS);
            drain(seen, thread);
        }
    }

    std::vector<std::thread> workers_;
    std::atomic<bool> stopping_{false};
    std::atomic<int> sleeping_{0};
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int> done_{0};
    const void* context_ = nullptr;
    void (*call_)(const void*, int, int) = nullptr;
};
