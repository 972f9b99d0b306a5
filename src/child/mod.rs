//! What runs in the sandboxed child.
