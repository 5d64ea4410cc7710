//! Placeholder, replaced by the room itself.
