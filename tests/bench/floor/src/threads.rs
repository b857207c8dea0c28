//! The floor of blocking calls: a thread per connection on each side, `write_all` and `read_exact` by turns.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use bench_load::{Job, Load};

use crate::{
    frame::{self, HEADER},
    messages,
};

pub(crate) fn serve(addr: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    bench_load::ready();
    loop {
        let mut connection = Connection::new(listener.accept()?.0)?;
        let answers = move || {
            while connection.answer().is_ok() {}
        };
        thread::Builder::new().stack_size(STACK).spawn(answers)?;
    }
}

pub(crate) fn load(load: &Load) -> io::Result<()> {
    let (addr, job) = (load.addr, load.scenario.job);
    let payload = job.payload();
    let dial = move || TcpStream::connect(addr).and_then(Connection::new);
    let opened = load.open_idle(|| {
        let mut connection = dial().unwrap_or_else(|error| load.fail(error));
        connection.call(job, &job.payload()).unwrap_or_else(|error| load.fail(error));
        connection
    });
    let per_call = load.scenario.per_call;
    load.run_threads(|| {
        let _held = &opened; // until the end of the process
        let mut connection = dial().unwrap_or_else(|error| load.fail(error));
        let payload = payload.clone();
        move || {
            if per_call {
                connection = dial().map_err(|error| error.to_string())?;
            }
            connection.call(job, &payload).map_err(|error| error.to_string())
        }
    })
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: vec![0; 256], output: Vec::new() })
    }

    fn call(&mut self, job: Job, payload: &[u8]) -> io::Result<()> {
        self.output.clear();
        frame::put(&mut self.output, messages::method(job), 0, |out| messages::request(job, payload, out));
        self.stream.write_all(&self.output)?;
        let size = self.receive()?;
        if messages::is_right(job, payload, &self.input[HEADER..size]) {
            Ok(())
        } else {
            Err(io::Error::other("a wrong answer"))
        }
    }

    fn answer(&mut self) -> io::Result<()> {
        let size = self.receive()?;
        let Some(request) = frame::take(&mut &self.input[..size]) else {
            return Ok(());
        };
        self.output.clear();
        frame::put(&mut self.output, request.method, request.call, |out| {
            messages::serve(request.method, request.message, out)
        });
        self.stream.write_all(&self.output)
    }

    /// Receives a frame into the front of `input`, and gives its size.
    ///
    /// There is one frame under way at most, so the first read usually has all of it, and nothing of another.
    fn receive(&mut self) -> io::Result<usize> {
        let mut have = 0;
        while have < HEADER {
            match self.stream.read(&mut self.input[have..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => have += count,
            }
        }
        let size = frame::size(&self.input).expect("a header is there");
        if self.input.len() < size {
            self.input.resize(size, 0);
        }
        if have < size {
            self.stream.read_exact(&mut self.input[have..size])?;
        }
        Ok(size)
    }
}

const STACK: usize = 256 << 10;
