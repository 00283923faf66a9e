//! Checks services in parallel and gives one verdict: a chord of checks against what really runs.
//!
//! cargo run --release --example health_check -- --timeout 2s db=tcp://127.0.0.1:5432 api=http://localhost:8080/health
//!
//! A check that fails or takes too long is data, not a failure: the verdict always comes.
//! Exit status: 0 healthy, 1 degraded, 2 wrong usage, 3 the checks could not be run.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chordal::prelude::*;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Checks services in parallel: tcp:// connects, http:// gets and wants a 2xx answer.
#[derive(Parser)]
#[command(name = "health_check")]
struct Arguments {
    /// The longest that one check may take
    #[arg(long, default_value = "2s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Print the verdict as JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// What to check; without any, three small services of this program, one of them broken
    #[arg(value_name = "NAME=URL")]
    services: Vec<Service>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Service {
    name: String,
    target: Target,
}

#[derive(Clone, Serialize, Deserialize)]
enum Target {
    Tcp { host: String, port: u16 },
    Http(String),
}

#[derive(Serialize, Deserialize)]
struct Component {
    service: String,
    status: Status,
    latency_ms: u64,
    error: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Verdict {
    overall: Status,
    components: Vec<Component>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    Unhealthy,
    Degraded,
}

#[task]
async fn check(client: Data<Client>, service: Service, timeout: Duration) -> Component {
    let start = Instant::now();
    // It holds for the name look-up, the connection and the answer together, however they drip.
    let outcome = match tokio::time::timeout(timeout, probe(&client, &service.target)).await {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!(
            "no answer within {}",
            humantime::format_duration(timeout)
        )),
    };
    Component {
        service: service.name,
        status: if outcome.is_ok() {
            Status::Healthy
        } else {
            Status::Unhealthy
        },
        latency_ms: start.elapsed().as_millis() as u64,
        error: outcome.err(),
    }
}

#[task]
async fn aggregate(components: Vec<Component>) -> Verdict {
    let healthy = components.iter().all(|one| one.status == Status::Healthy);
    Verdict {
        overall: if healthy {
            Status::Healthy
        } else {
            Status::Degraded
        },
        components,
    }
}

async fn probe(client: &Client, target: &Target) -> anyhow::Result<()> {
    match target {
        Target::Tcp { host, port } => {
            TcpStream::connect((host.as_str(), *port)).await?;
        }
        Target::Http(url) => {
            let answer = client
                .get(url)
                .send()
                .await
                .map_err(reqwest::Error::without_url)?;
            anyhow::ensure!(answer.status().is_success(), "HTTP {}", answer.status());
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut names = HashSet::new();
    if let Some(twice) = arguments
        .services
        .iter()
        .find(|service| !names.insert(&service.name))
    {
        let message = format!(
            "the name '{}' is given twice; each service needs its own",
            twice.name
        );
        Arguments::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }
    match run(arguments).await {
        Ok(Status::Healthy) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Status> {
    let services = if arguments.services.is_empty() {
        eprintln!("no service named: checking three of this program's own, one of them broken");
        own_services().await?
    } else {
        arguments.services
    };
    let store = tempfile::tempdir()?;
    // A proxy or a redirect would answer for another service than the one asked for, and a
    // connection of an earlier check does not show that the service still accepts new ones.
    let client = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()?;
    let app = App::open(store.path())
        .data(client)
        .tasks(tasks![check, aggregate])
        .start()
        .await?;
    let checks = group(
        services
            .into_iter()
            .map(move |service| check.s(service, arguments.timeout)),
    );
    let verdict = app
        .apply_async(chord(checks, aggregate.partial()))
        .await?
        .get()
        .await?;
    app.shutdown().await?;

    let shown = if arguments.json {
        serde_json::to_string(&verdict)?
    } else {
        verdict.to_string()
    };
    match writeln!(io::stdout(), "{shown}") {
        // Whoever read it has seen enough; the exit status still says how it went.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(verdict.overall)
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("a timeout of zero lets no check succeed".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(format!("{error}; write it like 500ms, 2s or 1m30s")),
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = text
            .split_once('=')
            .ok_or("not NAME=URL, for example db=tcp://127.0.0.1:5432")?;
        if name.is_empty() {
            return Err("the name before '=' is missing".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            target: url.parse()?,
        })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Url = text
            .parse()
            .map_err(|error| format!("'{text}' is not a URL: {error}"))?;
        match url.scheme() {
            "http" => Ok(Self::Http(url.into())),
            "tcp" => match (url.host_str(), url.port(), url.path()) {
                (Some(host), Some(port), "" | "/") => Ok(Self::Tcp {
                    // An IPv6 address stands in brackets in a URL, and nowhere else.
                    host: host.trim_matches(['[', ']']).to_owned(),
                    port,
                }),
                _ => Err(format!("'{text}' is not of the form tcp://HOST:PORT")),
            },
            "https" => Err("https is unknown here: this example is built without TLS".to_owned()),
            other => Err(format!("unknown scheme '{other}': use tcp:// or http://")),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .components
            .iter()
            .map(|one| one.service.chars().count())
            .max();
        for one in &self.components {
            let (service, status, latency) = (&one.service, one.status.to_string(), one.latency_ms);
            write!(
                f,
                "{service:<0$}  {status:<9} {latency:>6} ms",
                width.unwrap_or(0)
            )?;
            match &one.error {
                Some(error) => writeln!(f, "  {error}")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "overall: {}", self.overall)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Degraded => "degraded",
        })
    }
}

/// A database that only accepts, an API that is well, and a cache that is not.
async fn own_services() -> anyhow::Result<Vec<Service>> {
    let database = serve("").await?;
    let api = serve("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
    let cache = serve("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?;
    [
        format!("database=tcp://127.0.0.1:{database}"),
        format!("api=http://127.0.0.1:{api}/health"),
        format!("cache=http://127.0.0.1:{cache}/health"),
    ]
    .iter()
    .map(|service| service.parse().map_err(anyhow::Error::msg))
    .collect()
}

/// Serves `answer` to every connection, and returns the port.
async fn serve(answer: &'static str) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = client.read(&mut [0; 1_024]).await;
                let _ = client.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok(port)
}
