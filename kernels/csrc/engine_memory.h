// Scratch memory that the engine keeps between calls.
#pragma once

#include <cstddef>
#include <memory>

#include "engine_state.h"
#include "object_pool.h"

namespace adaptive_search {

struct Engine::Memory {
    Memory(const EngineConfig &c, std::size_t panel)
        : workspaces([c, panel] { return std::make_unique<Workspace>(c, panel); }),
          texts([c, panel] { return std::make_unique<TextState>(c, panel); }) {}

    ObjectPool<Workspace> workspaces;
    ObjectPool<TextState> texts;
};

}  // namespace adaptive_search
