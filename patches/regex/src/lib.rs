//! `regex-lite` under the name of `regex`.
//!
//! oci-spec asks `regex` whether `execCPUAffinity` is digits, `-` and `,`. For
//! that, regex would bring its tables of Unicode: 120 KiB of pointers, each of
//! which a static-pie program relocates whenever it starts. regex-lite is by the
//! same authors, and knows ASCII.

pub use regex_lite::Regex;
