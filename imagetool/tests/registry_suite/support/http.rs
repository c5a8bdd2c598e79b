//! The little of HTTP/1.1 that the tests' own servers speak: one request per connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A request's head.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn length(&self) -> u64 {
        self.header("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    /// A parameter of the query, not decoded.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Reads a head: the first line's words and the headers. `None` for what is no HTTP (a client that tries TLS).
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    if reader
        .fill_buf()?
        .first()
        .is_none_or(|byte| !byte.is_ascii_alphabetic())
    {
        return Ok(None);
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let mut head = Head {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers: Vec::new(),
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some(head));
        }
        if let Some((key, value)) = line.split_once(':') {
            head.headers
                .push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
}

/// A server on a free port of the loopback; each connection has a thread. Ends when dropped.
pub(crate) struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(
        serve: impl Fn(&mut BufReader<TcpStream>, &Head) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (stop.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), serve) = (stream, serve.clone()) else {
                    continue;
                };
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    // what breaks here is what the client is tested with
                    if let Ok(Some(head)) = read_head(&mut reader) {
                        let _ = serve(&mut reader, &head);
                    }
                });
            }
        });
        Self { port, stop }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address());
    }
}

/// Writes a whole answer.
pub(crate) fn answer(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    if !headers
        .iter()
        .any(|(key, _)| key.eq_ignore_ascii_case("content-length"))
    {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (key, value) in headers {
        head += &format!("{key}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

/// Reads a request's body.
pub(crate) fn body(reader: &mut impl BufRead, head: &Head) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(head.length()).read_to_end(&mut bytes)?;
    Ok(bytes)
}
