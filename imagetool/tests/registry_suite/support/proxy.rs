//! A proxy in front of a registry that breaks what it is told to break, and writes down what it is asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::http::{Head, Server, answer};

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// The connection ends before an answer.
    Drop,
    /// The answer's body ends after so many bytes.
    CutAfter(u64),
    /// The request's body is not read beyond so many bytes, then the connection ends.
    CutRequestAfter(u64),
    /// A pause after each so many bytes of the answer's body.
    Slow(usize, Duration),
    /// An answer of the proxy's own.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Bytes as they are, in place of an answer.
    Raw(Vec<u8>),
    /// The byte at this place of the answer's body is another.
    WrongByte(u64),
    /// Header lines of the answer are replaced or added.
    Header(&'static str, String),
    /// The request's `Range` is not handed on.
    IgnoreRange,
}

impl Fault {
    /// An answer with a status and a body of no kind.
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    /// A redirect.
    pub(crate) fn redirect(location: &str) -> Self {
        let header = ("Location".to_owned(), location.to_owned());
        Self::Answer(307, vec![header], Vec::new())
    }
}

/// The proxy. Ends when dropped.
pub(crate) struct Proxy {
    server: Server,
    seen: Arc<Mutex<Vec<Head>>>,
}

impl Proxy {
    /// In front of `upstream` (`HOST:PORT`); `rule` is asked for each request.
    pub(crate) fn start(upstream: &str, rule: impl FnMut(&Head) -> Fault + Send + 'static) -> Self {
        let upstream = upstream.to_owned();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, rule) = (seen.clone(), Mutex::new(rule));
        let server = Server::start(move |client, head| {
            kept.lock().unwrap().push(head.clone());
            let fault = (rule.lock().unwrap())(head);
            serve(client, head, &fault, &upstream)
        });
        Self { server, seen }
    }

    pub(crate) fn address(&self) -> String {
        self.server.address()
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests so far had this method and a part of this target.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let seen = self.seen();
        seen.iter()
            .filter(|head| head.method == method && head.target.contains(part))
            .count()
    }
}

fn serve(client: &mut BufReader<TcpStream>, head: &Head, fault: &Fault, upstream: &str) -> io::Result<()> {
    match fault {
        Fault::Drop => return Ok(()),
        Fault::CutRequestAfter(count) => {
            io::copy(&mut client.take(*count), &mut io::sink())?;
            return Ok(());
        }
        Fault::Answer(status, headers, body) => {
            io::copy(&mut client.by_ref().take(head.length()), &mut io::sink())?;
            let headers: Vec<_> = headers
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            return answer(client.get_mut(), *status, &headers, body);
        }
        Fault::Raw(bytes) => return client.get_mut().write_all(bytes),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    let mut text = format!(
        "{} {} HTTP/1.1\r\nConnection: close\r\n",
        head.method, head.target
    );
    for (key, value) in &head.headers {
        let drop = key.eq_ignore_ascii_case("connection")
            || (matches!(fault, Fault::IgnoreRange) && key.eq_ignore_ascii_case("range"));
        if !drop {
            text += &format!("{key}: {value}\r\n");
        }
    }
    server.write_all(format!("{text}\r\n").as_bytes())?;
    io::copy(&mut client.take(head.length()), &mut server)?;
    let mut server = BufReader::new(server);
    copy_head(&mut server, client.get_mut(), fault)?;
    copy_body(&mut server, client.get_mut(), fault)?;
    client.get_mut().shutdown(Shutdown::Both)
}

fn copy_head(server: &mut impl BufRead, client: &mut TcpStream, fault: &Fault) -> io::Result<()> {
    let mut out = String::new();
    loop {
        let mut line = String::new();
        if server.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let replaced = match fault {
            Fault::Header(name, _) => line
                .split(':')
                .next()
                .is_some_and(|key| key.eq_ignore_ascii_case(name)),
            _ => false,
        };
        if !replaced {
            out += &line;
        }
    }
    if let Fault::Header(name, value) = fault {
        out += &format!("{name}: {value}\r\n");
    }
    client.write_all(format!("{out}\r\n").as_bytes())
}

fn copy_body(server: &mut impl Read, client: &mut TcpStream, fault: &Fault) -> io::Result<()> {
    match fault {
        Fault::CutAfter(count) => io::copy(&mut server.take(*count), client).map(|_| ()),
        Fault::Slow(bytes, pause) => {
            let mut buffer = vec![0; *bytes];
            loop {
                match server.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => client.write_all(&buffer[..count])?,
                }
                thread::sleep(*pause);
            }
        }
        Fault::WrongByte(at) => {
            io::copy(&mut server.by_ref().take(*at), client)?;
            let mut byte = [0];
            server.read_exact(&mut byte)?;
            client.write_all(&[byte[0] ^ 1])?;
            io::copy(server, client).map(|_| ())
        }
        _ => io::copy(server, client).map(|_| ()),
    }
}
