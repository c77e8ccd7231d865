// Objects that are costly to make, kept for the next use.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace adaptive_search {

template <class T>
class ObjectPool {
  public:
    using Make = std::function<std::unique_ptr<T>()>;

    explicit ObjectPool(Make make) : make_(std::move(make)) {}

    // One that is idle, as it was left, or a new one.
    std::unique_ptr<T> take() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!idle_.empty()) {
                std::unique_ptr<T> object = std::move(idle_.back());
                idle_.pop_back();
                return object;
            }
        }
        return make_();
    }
    void give(std::unique_ptr<T> object) {
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(std::move(object));
    }

  private:
    Make make_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<T>> idle_;
};

}  // namespace adaptive_search
