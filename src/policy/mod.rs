//! What follows from what happened: pure.
