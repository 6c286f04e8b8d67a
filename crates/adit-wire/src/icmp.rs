//! Messages inside IP.
