//! Tells the linker where the program begins.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The linker reads them (.cargo/config.toml), which Cargo cannot know.
    println!("cargo:rerun-if-changed=scripts/ordered-cc");
    println!("cargo:rerun-if-changed=benches/order/key.awk");
    println!("cargo:rerun-if-changed=benches/order/start.order");
    // `denovo_start` in src/kernel/sys/memory.rs; elsewhere the C library's own.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo:rustc-link-arg-bins=-Wl,-e,denovo_start");
    }
}
