//! Not a test: the last suite that `cargo test` runs, by its name. Lists what the others
//! have skipped, since a skipped test passes.

#[path = "common/skipped.rs"]
mod skipped;

fn main() {
    if std::env::args().any(|word| word == "--list") {
        return;
    }
    let lines = skipped::take_list();
    match lines.len() {
        0 => println!("\nNo test was skipped.\n"),
        1 => println!("\nOne test, or a part of it, was skipped:"),
        count => println!("\n{count} tests, or parts of them, were skipped:"),
    }
    for line in lines {
        println!("  {line}");
    }
}
