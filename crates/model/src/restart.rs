//! The restart table: what follows the end of a run, as a pure function.
