//! The examples, run as a user runs them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpSocket;

/// `target/<profile>/examples/<name>`, which `cargo test` builds with the tests.
fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path: PathBuf = [path, "examples".into(), name.into()].iter().collect();
    assert!(
        path.exists(),
        "`cargo test` builds {path:?}; alone, this test needs `cargo build --examples` before it"
    );
    Command::new(path)
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn run(name: &str) -> String {
    let output = example(name).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    printed(&output)
}

#[test]
fn hello_greets() {
    let text = run("hello");
    assert!(text.starts_with("task 0"), "{text}");
    assert!(text.ends_with("is submitted\nhello, world\n"), "{text}");
}

#[test]
fn chain_gives_a_value_and_a_failure() {
    assert_eq!(
        run("chain"),
        "3 41 15: the largest number is 41\n\
         3 forty-one 15: `parse` failed: invalid digit found in string\n"
    );
}

#[test]
fn group_gives_its_values_in_member_order() {
    let text = run("group");
    let mut lines: Vec<_> = text.lines().collect();
    lines[..4].sort_unstable();
    assert_eq!(
        lines,
        [
            "member 0 is done: 168 primes",
            "member 1 is done: 135 primes",
            "member 2 is done: 127 primes",
            "member 3 is done: 120 primes",
            "in order: [168, 135, 127, 120]",
            "4 of 4 completed",
            "25 PRIMES below 100",
        ]
    );
}

#[test]
fn chord_counts_the_words_of_the_pages_that_can_be_read() {
    assert_eq!(
        run("chord"),
        "{\"and\": 2, \"bird\": 1, \"cat\": 2, \"dog\": 1, \"the\": 4}\n"
    );
}

/// Its table is larger than a task's value may be, and one of its words, too.
#[test]
fn map_reduce_counts_a_text_whose_words_are_too_many_for_a_value() {
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text");
    let data = home.path().join("data");
    let long = "x".repeat(2 << 20);
    let mut words = String::new();
    for n in 0..150_000u64 {
        let word = n.reverse_bits();
        words.push_str(&format!("{word:016x} "));
    }
    words.push_str(&format!("{long} {long} {long}, twice twice\n"));
    std::fs::write(&text, &words).unwrap();
    let count = || {
        let mut command = example("map_reduce");
        command.args(["--json", "--top", "2", "--data-dir"]);
        let output = command.arg(&data).arg(&text).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let answer = count();
    let (all, distinct) = (&answer["words"], &answer["distinct"]);
    assert_eq!((all, distinct), (&json!(150_005), &json!(150_002)));
    assert_eq!(answer["top"], json!([[long, 3], ["twice", 2]]));
    // Nothing but the answer stays, and that can be had again.
    let left = std::fs::read_dir(data.join("tables")).unwrap().count();
    assert_eq!(left, 1);
    assert_eq!(count(), answer);
}

#[test]
fn nested_adds_up_two_levels() {
    assert_eq!(
        run("nested"),
        "[(\"fruit\", 720), (\"tools\", 810)], 1530 cents in all\n"
    );
}

#[test]
fn resume_carries_on_where_the_first_run_died_and_does_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let again = || example("resume").arg(&data).output().unwrap();

    let first = again();
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    assert_eq!(
        printed(&first),
        "step 1 runs, attempt 1\nstep 2 runs, attempt 1\nstep 3 runs, attempt 1\n\
         the power goes out: run it again\n"
    );

    let end = format!("to start over, remove {}\n", data.display());
    let second = again();
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    assert_eq!(
        printed(&second),
        "step 3 runs, attempt 2\nstep 4 runs, attempt 1\nstep 5 runs, attempt 1\n\
         step 1: was already done\nstep 2: was already done\n\
         step 3: done now\nstep 4: done now\nstep 5: done now\n"
            .to_owned()
            + &end
    );

    let third = again();
    let all: String = (1..=5)
        .map(|i| format!("step {i}: was already done\n"))
        .collect();
    assert_eq!(printed(&third), all + &end);
}

// health_check

/// Serves every connection on a thread of its own.
fn serve(ip: &str, answer: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, answer) = (client.unwrap(), answer.clone());
            thread::spawn(move || answer(client));
        }
    });
    address
}

/// Answers every request with this status line and these headers.
fn http(ip: &str, head: &'static str) -> SocketAddr {
    serve(ip, move |mut client| {
        let _ = client.read(&mut [0; 4_096]);
        let _ = write!(client, "HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
    })
}

/// A port that is taken, so that no other test gets it, but where nobody listens.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn health_check(arguments: &[&str]) -> Output {
    example("health_check").args(arguments).output().unwrap()
}

/// The verdict on these services and the exit status, with a timeout that healthy ones never need.
fn verdict(services: &[String]) -> (Value, Option<i32>) {
    let mut arguments = vec!["--json", "--timeout", "10m"];
    arguments.extend(services.iter().map(String::as_str));
    let output = health_check(&arguments);
    let text = printed(&output);
    assert_eq!(text.lines().count(), 1, "{output:?}");
    (serde_json::from_str(&text).unwrap(), output.status.code())
}

/// The error of the one service, which is not healthy.
fn error_of(service: String) -> String {
    let (verdict, status) = verdict(&[service]);
    assert_eq!(status, Some(1), "{verdict}");
    assert_eq!(verdict["overall"], "degraded");
    assert_eq!(verdict["components"][0]["status"], "unhealthy");
    verdict["components"][0]["error"].as_str().unwrap().into()
}

/// The error of a service that never lets a check end by itself.
fn error_in_time_of(service: String) -> String {
    let output = health_check(&["--json", "--timeout", "150ms", &service]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let verdict: Value = serde_json::from_str(&printed(&output)).unwrap();
    assert!(verdict["components"][0]["latency_ms"].as_u64().unwrap() >= 150);
    verdict["components"][0]["error"].as_str().unwrap().into()
}

/// What wrong usage is told, which is exit status 2 and nothing on stdout.
fn refusal(arguments: &[&str]) -> String {
    let output = health_check(arguments);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(printed(&output), "");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().next().unwrap().to_owned()
}

#[test]
fn health_check_is_healthy_when_every_service_is() {
    let (tcp, api) = (
        serve("127.0.0.1", drop),
        http("127.0.0.1", "204 No Content"),
    );
    let (mut verdict, status) = verdict(&[
        format!("db=tcp://{tcp}"),
        format!("api=http://{api}/health?deep=1"),
    ]);
    assert_eq!(status, Some(0), "{verdict}");
    for component in verdict["components"].as_array_mut().unwrap() {
        assert!(component["latency_ms"].take().is_u64());
    }
    assert_eq!(
        verdict,
        json!({"overall": "healthy", "components": [
            {"service": "db", "status": "healthy", "latency_ms": null, "error": null},
            {"service": "api", "status": "healthy", "latency_ms": null, "error": null},
        ]})
    );
}

#[test]
fn health_check_lists_components_in_argument_order_and_one_bad_one_degrades_all() {
    let api = http("127.0.0.1", "200 OK");
    let (_held, refusing) = refusing();
    let names = ["zeta", "alpha", "mid", "beta", "omega"];
    let services: Vec<_> = names
        .iter()
        .map(|name| match *name {
            "mid" => format!("{name}=tcp://{refusing}"),
            _ => format!("{name}=http://{api}/"),
        })
        .collect();
    let (verdict, status) = verdict(&services);
    assert_eq!(
        (verdict["overall"].as_str(), status),
        (Some("degraded"), Some(1))
    );
    let components = verdict["components"].as_array().unwrap();
    for (name, component) in names.iter().zip(components) {
        assert_eq!(component["service"], *name);
        assert_eq!(component["error"].is_null(), *name != "mid", "{component}");
    }
    assert_eq!(components.len(), names.len());
}

#[test]
fn health_check_says_why_a_service_is_unhealthy() {
    let (_held, refusing) = refusing();
    let tcp = error_of(format!("x=tcp://{refusing}"));
    assert!(tcp.contains("refused"), "{tcp}");
    let http_refused = error_of(format!("x=http://{refusing}/"));
    assert!(http_refused.contains("refused"), "{http_refused}");
    let broken = http("127.0.0.1", "503 Service Unavailable");
    assert_eq!(
        error_of(format!("x=http://{broken}/")),
        "HTTP 503 Service Unavailable"
    );
    // A name that never resolves (RFC 6761).
    assert!(!error_of("x=tcp://nowhere.invalid:1".into()).is_empty());
}

#[test]
fn health_check_follows_no_redirect() {
    let moved = http("127.0.0.1", "302 Found\r\nLocation: http://127.0.0.1:1/");
    assert_eq!(error_of(format!("x=http://{moved}/")), "HTTP 302 Found");
}

#[test]
fn health_check_takes_an_answer_that_is_no_http_as_unhealthy() {
    let garbage = serve("127.0.0.1", |mut client| {
        let _ = client.read(&mut [0; 4_096]);
        let _ = client.write_all(b"SSH-2.0-OpenSSH\r\n");
    });
    assert!(!error_of(format!("x=http://{garbage}/")).is_empty());
    let hangs_up = serve("127.0.0.1", drop);
    assert!(!error_of(format!("x=http://{hangs_up}/")).is_empty());
}

#[test]
fn health_check_does_not_wait_for_a_server_that_accepts_and_never_answers() {
    let silent = serve("127.0.0.1", |mut client| {
        let _ = client.read_to_end(&mut Vec::new());
    });
    let error = error_in_time_of(format!("x=http://{silent}/"));
    assert_eq!(error, "no answer within 150ms");
}

#[test]
fn health_check_does_not_wait_for_a_server_that_drips_its_answer() {
    let drips = serve("127.0.0.1", |mut client| {
        let mut request = [0; 4_096];
        // The request first: an answer to nothing is an error of its own.
        let _ = client.read(&mut request);
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nDrip: ");
        let quiet = Some(Duration::from_millis(20));
        client.set_read_timeout(quiet).unwrap();
        // One byte whenever the client has been quiet for a while, until it hangs up.
        while client.write_all(b"a").is_ok() && !matches!(client.read(&mut request), Ok(0)) {}
    });
    let error = error_in_time_of(format!("x=http://{drips}/"));
    assert_eq!(error, "no answer within 150ms");
}

#[test]
fn health_check_needs_no_body_to_see_a_2xx() {
    let endless = serve("127.0.0.1", |mut client| {
        let _ = client.read(&mut [0; 4_096]);
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx");
        let _ = client.read_to_end(&mut Vec::new());
    });
    let (verdict, status) = verdict(&[format!("x=http://{endless}/")]);
    assert_eq!(status, Some(0), "{verdict}");
}

#[test]
fn health_check_knows_host_names_and_ipv6_literals() {
    let api = http("127.0.0.1", "200 OK");
    let mut services = vec![
        format!("api=http://localhost:{}/", api.port()),
        format!("db=tcp://localhost:{}", api.port()),
    ];
    // Some machines have no IPv6 at all.
    if TcpListener::bind("[::1]:0").is_ok() {
        let six = http("::1", "200 OK");
        services.push(format!("api6=http://[::1]:{}/", six.port()));
        services.push(format!("db6=tcp://[::1]:{}", six.port()));
    }
    let (verdict, status) = verdict(&services);
    assert_eq!(status, Some(0), "{verdict}");
}

#[test]
fn health_check_without_services_checks_three_of_its_own_of_which_one_is_broken() {
    let output = health_check(&["--json", "--timeout", "10m"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let verdict: Value = serde_json::from_str(&printed(&output)).unwrap();
    let status: Vec<_> = verdict["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["status"].as_str().unwrap())
        .collect();
    assert_eq!(status, ["healthy", "healthy", "unhealthy"]);
}

#[test]
fn health_check_prints_a_table_for_people() {
    let output = health_check(&["--timeout", "10m"]);
    let text = printed(&output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[2].starts_with("cache     unhealthy "), "{text}");
    assert!(
        lines[2].ends_with(" ms  HTTP 503 Service Unavailable"),
        "{text}"
    );
    assert_eq!(lines[3], "overall: degraded");
}

#[test]
fn health_check_names_the_argument_that_is_wrong() {
    let cases: [(&[&str], &str); 11] = [
        (
            &["db"],
            "error: invalid value 'db' for '[NAME=URL]...': not NAME=URL, for example db=tcp://127.0.0.1:5432",
        ),
        (
            &["=tcp://a:1"],
            "error: invalid value '=tcp://a:1' for '[NAME=URL]...': the name before '=' is missing",
        ),
        (
            &["db=a:b"],
            "error: invalid value 'db=a:b' for '[NAME=URL]...': unknown scheme 'a': use tcp:// or http://",
        ),
        (
            &["db=nothing"],
            "error: invalid value 'db=nothing' for '[NAME=URL]...': 'nothing' is not a URL: relative URL without a base",
        ),
        (
            &["db=ftp://a:1"],
            "error: invalid value 'db=ftp://a:1' for '[NAME=URL]...': unknown scheme 'ftp': use tcp:// or http://",
        ),
        (
            &["db=https://a"],
            "error: invalid value 'db=https://a' for '[NAME=URL]...': https is unknown here: this example is built without TLS",
        ),
        (
            &["db=tcp://a"],
            "error: invalid value 'db=tcp://a' for '[NAME=URL]...': 'tcp://a' is not of the form tcp://HOST:PORT",
        ),
        (
            &["db=tcp://a:1", "db=tcp://b:1"],
            "error: the name 'db' is given twice; each service needs its own",
        ),
        (
            &["--timeout", "soon"],
            "error: invalid value 'soon' for '--timeout <TIMEOUT>': expected number at 0; write it like 500ms, 2s or 1m30s",
        ),
        (
            &["--timeout", "0s"],
            "error: invalid value '0s' for '--timeout <TIMEOUT>': a timeout of zero lets no check succeed",
        ),
        (
            &["--tiemout", "1s"],
            "error: unexpected argument '--tiemout' found",
        ),
    ];
    for (arguments, message) in cases {
        assert_eq!(refusal(arguments), message);
    }
}
