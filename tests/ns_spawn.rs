//! ns-spawn from outside.
