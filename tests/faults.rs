//! It keeps its promises when everything round it fails: the real binary is killed, cut off, refused and lied to at every point of its work.

#[expect(dead_code, unused_imports, reason = "the tests of the promises use the rest")]
mod support;

mod when_all_fails;
