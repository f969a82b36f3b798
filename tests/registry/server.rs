//! A registry as bad as a test needs it: each request goes to a closure.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use denovo::image::Digest;
use serde_json::json;

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Ends the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Then holds it open, silent.
    pub hold: bool,
    /// Without a Content-Length: until the connection ends.
    pub unmeasured: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new(200) }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let (all, end) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (answer, all, end) = (answer.clone(), all.clone(), end.clone());
                std::thread::spawn(move || serve(stream, &*answer, &all, &end));
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// `REGISTRY/REST`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests whose path has this in it.
    pub fn asked(&self, part: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.path.contains(part)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Seen) -> Reply,
    all: &Mutex<Vec<Seen>>,
    end: &AtomicBool,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(seen) = read(&mut reader) {
        all.lock().unwrap().push(seen.clone());
        let reply = answer(&seen);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if reply.unmeasured {
            head.push_str("Connection: close\r\n");
        } else {
            head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
        }
        head.push_str("\r\n");
        let sent = if seen.method == "HEAD" { 0 } else { reply.body.len() };
        let sent = reply.cut.map_or(sent, |cut| cut.min(sent));
        let written = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&reply.body[..sent]))
            .and_then(|()| stream.flush());
        while reply.hold && !end.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if written.is_err() || reply.cut.is_some() || reply.unmeasured {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Seen::default()
    };
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = seen.header("content-length").parse().unwrap_or(0);
    seen.body = vec![0; length];
    reader.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// An image of one layer, as a registry would have it.
#[derive(Debug, Clone)]
pub struct Made {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Made {
    /// Whose layer is `layer`, which need not be one.
    pub fn of(layer: Vec<u8>) -> Self {
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": Digest::of(bytes),
                "size": bytes.len(),
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part("config.v1+json", &config),
            "layers": [part("layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        Self { layer, config, manifest }
    }

    /// Whose layer has so many bytes, a multiple of 512 above 2048; the data
    /// of its one file differ from place to place.
    pub fn large(length: usize) -> Self {
        assert!(length >= 2048 && length.is_multiple_of(512));
        let data: Vec<u8> = (0..length - 1536).map(|n| (n * 7 + n / 251) as u8).collect();
        // A header of POSIX's ustar, the data, and two blocks of zeros.
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, "data");
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", data.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Self::of([&header[..], &data, &[0; 1024]].concat())
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub fn layer_digest(&self) -> Digest {
        Digest::of(&self.layer)
    }

    pub fn is_layer(&self, seen: &Seen) -> bool {
        seen.path.ends_with(&format!("/blobs/{}", self.layer_digest()))
    }

    /// What an honest registry says, with ranges.
    pub fn answer(&self, seen: &Seen) -> Reply {
        let Some(path) = seen.path.strip_prefix("/v2/") else { return Reply::new(404) };
        let last = path.rsplit('/').next().unwrap();
        if path.contains("/manifests/") {
            if last != "t" && last != self.digest().to_string() {
                return Reply::new(404);
            }
            return Reply::ok(self.manifest.clone())
                .header("Content-Type", MANIFEST)
                .header("Docker-Content-Digest", self.digest().to_string());
        }
        let blobs = [&self.layer, &self.config];
        let Some(blob) = blobs.iter().find(|b| Digest::of(b).to_string() == last) else {
            return Reply::new(404);
        };
        let from = seen.header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) => Reply { status: 206, body: blob[from..].to_vec(), ..Reply::default() }
                .header("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
            None => Reply::ok((*blob).clone()),
        }
    }
}
