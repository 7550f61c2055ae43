//! Compiles the model that `PEERS_MODEL` names.

use std::env;

fn main() {
    println!("cargo:rerun-if-env-changed=PEERS_MODEL");
    let model = env::var_os("PEERS_MODEL").expect("PEERS_MODEL names no model");
    infer_embed::build::compile("Net", model).unwrap();
}
