//! The test hosts themselves: that they are what the other tests take them for.

#[allow(dead_code, unreachable_pub)]
#[path = "hosts/mod.rs"]
mod hosts;
#[path = "hosts/self_test.rs"]
mod self_test;
