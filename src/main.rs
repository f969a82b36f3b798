//! From argv to the exit code.

fn main() {
    std::process::exit(denovo::cli::main(std::env::args_os()));
}
