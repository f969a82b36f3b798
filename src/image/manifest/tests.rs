use proptest::prelude::*;

use super::*;

fn digest(n: u8) -> String {
    Digest::of(&[n]).to_string()
}

fn descriptor(media: &str, n: u8) -> String {
    format!(r#"{{"mediaType":"{media}","digest":"{}","size":{n}}}"#, digest(n))
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn an_index(entries: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
}

fn a_manifest(layers: &[String]) -> String {
    let config = descriptor(CONFIG, 1);
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
}

#[test]
fn manifests_and_indexes_are_told_apart() {
    let text = a_manifest(&[descriptor(LAYER, 2)]);
    let Document::Manifest(manifest) = parse(text.as_bytes(), Some(MANIFEST)).unwrap() else {
        panic!("a manifest")
    };
    assert_eq!(manifest.layers[0].digest.to_string(), digest(2));
    let text = an_index(&[descriptor(MANIFEST, 3)]);
    assert!(matches!(parse(text.as_bytes(), Some(INDEX)), Ok(Document::Index(c)) if c.len() == 1));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let config = descriptor(CONFIG, 1);
    let manifest = a_manifest(&[]);
    let index = an_index(&[]);
    for (text, named, why) in [
        (
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#),
            None,
            "both",
        ),
        (r#"{"schemaVersion":2,"manifests":[],"fsLayers":[]}"#.to_owned(), None, "both"),
        (r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.to_owned(), None, "duplicate"),
        (manifest.clone(), Some(INDEX), "not that"),
        (index.clone(), Some(MANIFEST), "not that"),
        (
            manifest.replace(
                "{\"schemaVersion\":2",
                &format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\""),
            ),
            None,
            "not that",
        ),
        (manifest.clone(), Some("text/html"), "no image"),
        (manifest.replace(":2,\"config", ":1,\"config"), None, "schemaVersion"),
        (manifest.replace("sha256:", "sha256:../../"), None, ""),
        (manifest.replace("sha256:", "sha1:"), None, ""),
        (an_index(&vec![descriptor(MANIFEST, 1); MOST_MANIFESTS + 1]), None, "allowed"),
        (a_manifest(&vec![descriptor(LAYER, 1); MOST_LAYERS + 1]), None, "allowed"),
        (format!("{}{}", manifest, " ".repeat(LARGEST as usize)), None, "larger"),
        ("[".repeat(100_000), None, ""),
        ("null".into(), None, ""),
        (String::new(), None, ""),
    ] {
        let problem = parse(text.as_bytes(), named).unwrap_err();
        assert!(problem.message.contains(why), "{why}: {}", problem.message);
    }
}

#[test]
fn an_index_gives_this_platforms_image() {
    let entry = |arch: &str, n: u8| {
        descriptor(MANIFEST, n).replace(
            "\"size\"",
            &format!(r#""platform":{{"os":"linux","architecture":"{arch}"}},"size""#),
        )
    };
    let text = an_index(&[entry("arm64", 4), entry("amd64", 5)]);
    let Ok(Document::Index(choices)) = parse(text.as_bytes(), None) else { panic!("an index") };
    let amd64 = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    assert_eq!(choose(&choices, &amd64).unwrap().part.size, 5);
    let other = Platform { architecture: "riscv64".into(), ..amd64 };
    let problem = choose(&choices, &other).unwrap_err();
    assert!(problem.message.contains("linux/arm64, linux/amd64"), "{}", problem.message);
}

#[test]
fn indexes_that_lead_into_one_another_come_to_an_end() {
    let text = an_index(&[descriptor(INDEX, 1)]);
    let mut fetched = 0;
    let problem = descend(text.clone().into_bytes(), None, &Platform::own(), |_| {
        fetched += 1;
        Ok(text.clone().into_bytes())
    });
    assert!(problem.unwrap_err().message.contains("indexes in indexes"));
    assert_eq!(fetched, DEEPEST + 1);
}

#[test]
fn a_configuration_gives_variables_that_are_some() {
    let text = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{}"]}},
        "config":{{"Env":["A=b","SECRET","*","=x","B="],"WorkingDir":"/w","User":""}}}}"#,
        digest(1)
    );
    let config = parse_config(text.as_bytes()).unwrap();
    assert_eq!(config.env, ["A=b", "B="]);
    assert_eq!(config.working_dir.as_deref(), Some("/w"));
    assert_eq!(config.user, None);
    assert!(parse_config(text.replace("sha256:", "sha256:.").as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_confuse_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, None);
        let _ = parse_config(&bytes);
    }

    #[test]
    fn a_damaged_document_is_an_error_or_a_document(at in 0usize..400, byte in any::<u8>()) {
        let mut bytes = a_manifest(&[descriptor(LAYER, 2)]).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Document::Manifest(manifest)) = parse(&bytes, None) {
            prop_assert!(manifest.layers.len() <= 1);
        }
    }
}
