//! Any bytes are an index, a manifest, a configuration, a reference, or refused.
#![no_main]

use denovo::image::Reference;
use denovo::image::manifest::{Document, MOST_LAYERS, MOST_MANIFESTS, parse, parse_config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes, None) {
        Ok(Document::Index(choices)) => assert!(choices.len() <= MOST_MANIFESTS),
        Ok(Document::Manifest(manifest)) => assert!(manifest.layers.len() <= MOST_LAYERS),
        Err(_) => {}
    }
    if let Ok(config) = parse_config(bytes) {
        assert!(config.env.iter().all(|entry| entry.find('=').is_some_and(|at| at > 0)));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = text.parse::<Reference>()
    {
        assert_eq!(reference.to_string(), text);
    }
});
