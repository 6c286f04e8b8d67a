//! The configuration file: from text to what the machines need, and to diagnostics that point at the text.
