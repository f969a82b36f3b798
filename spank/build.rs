//! Slurm loads only plugins that say its own version.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=SLURM_INCLUDE");
    println!("cargo:rerun-if-changed=build.rs");
    let dir = std::env::var_os("SLURM_INCLUDE").unwrap_or_else(|| "/usr/include/slurm".into());
    let header = PathBuf::from(dir).join("slurm_version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let Ok(text) = std::fs::read_to_string(&header) else {
        println!(
            "cargo:warning={}: not there; install Slurm's headers (Debian: libslurm-dev), or name \
             their directory with SLURM_INCLUDE",
            header.display()
        );
        std::process::exit(1);
    };
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix("#define SLURM_VERSION_NUMBER "))
        .and_then(|word| u32::from_str_radix(word.trim().trim_start_matches("0x"), 16).ok());
    match number {
        Some(number) => println!("cargo:rustc-env=SLURM_VERSION_NUMBER={number}"),
        None => {
            println!("cargo:warning={}: no SLURM_VERSION_NUMBER", header.display());
            std::process::exit(1);
        }
    }
}
