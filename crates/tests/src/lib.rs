//! Whole-agent tests on hosts made of namespaces.
