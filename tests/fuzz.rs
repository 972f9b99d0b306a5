//! What the fuzz targets ask of any bytes, asked of every seed: so the targets are kept true, and what once broke
//! something stays mended.

#[path = "../fuzz/src/frames.rs"]
mod frames;
#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a crate of its own elsewhere")]
mod properties;

use std::fs;
use std::path::Path;

#[test]
fn every_seed_keeps_the_property_of_its_target() {
    let frames: (_, properties::Property) = ("frames", frames::frames);
    for (target, holds_of) in properties::TARGETS.into_iter().chain([frames]) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let files: Vec<_> = fs::read_dir(seeds).expect("every target has seeds").flatten().collect();
        assert!(files.len() >= 3, "{target} has {} seeds", files.len());
        for file in files {
            println!("{}", file.path().display());
            holds_of(&fs::read(file.path()).expect("a seed is a file"));
        }
    }
}
