// Scratch memory that the engine keeps between calls.
#pragma once

#include "engine_state.h"

namespace adaptive_search {

struct Engine::Shelves {
    Shelf<Workspace> workspaces;
    Shelf<TextState> texts;
};

}  // namespace adaptive_search
