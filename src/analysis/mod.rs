//! Two pages in, a report out.
