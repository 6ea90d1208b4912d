//! The built program reads its settings as its manual says. A wrong setting ends it at once with
//! exit code 2 and one line for each problem. None of these tests lets it connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use crate::support::not_offered;

const URL: &str = "postgres://outboxd@db.invalid/orders";

/// Runs the program with this environment and nothing else.
fn outboxd(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outboxd"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_errors(output: &Output, settings: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines.len(),
        2 * settings.len(),
        "two lines for each error:\n{text}"
    );
    for (lines, setting) in lines.chunks(2).zip(settings) {
        let start = format!("error: CONFIG_ERROR: {setting} ");
        assert!(lines[0].starts_with(&start), "{text}");
        assert!(lines[1].starts_with("hint: "), "{text}");
    }
}

#[test]
fn run_without_settings_says_what_it_needs_and_ends_with_2() {
    assert_errors(&outboxd(&["run"], &[]), &["DATABASE_URL", "KAFKA_BROKERS"]);
}

#[test]
fn all_faults_of_flags_environment_and_file_come_at_once() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(
        file,
        "log_format = 'xml'\nsauce = 'hot'\n[kafka]\nacks = 1\n"
    )
    .expect("it is written");
    let path = file.path().display().to_string();
    let output = outboxd(
        &["run", "--max-retries", "many", "--config", &path],
        &[
            ("DATABASE_URL", URL),
            ("OUTBOX_BATCH_SIZE", "0"),
            ("OUTBOX_AFTER_PUBLISH", "keep"),
            ("OUTBOX_BACKLOG", "publish"),
        ],
    );
    let unknown = format!("{path}: sauce");
    assert_errors(
        &output,
        &[
            &unknown,
            "KAFKA_BROKERS",
            "KAFKA_PROPERTIES",
            "OUTBOX_BATCH_SIZE",
            "OUTBOX_MAX_RETRIES",
            "OUTBOX_BACKLOG",
            "OUTBOX_LOG_FORMAT",
        ],
    );
}

/// A flag's wrong value hides the environment's, which hides the file's: the reported value shows
/// which source won.
#[test]
fn a_flag_counts_before_the_environment_and_this_before_the_file() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(
        file,
        "slot = 'From-File'\nkey = 'from-file'\nbacklog = 'from-file'\n"
    )
    .expect("it is written");
    let path = file.path().display().to_string();
    let output = outboxd(
        &["run", "--slot", "From-Flag"],
        &[
            ("OUTBOX_CONFIG", path.as_str()),
            ("DATABASE_URL", URL),
            ("KAFKA_BROKERS", "kafka.invalid:9092"),
            ("OUTBOX_SLOT", "From-Environment"),
            ("OUTBOX_KEY", "from-environment"),
            ("OUTBOX_BACKLOG", ""),
        ],
    );
    assert_errors(&output, &["OUTBOX_SLOT", "OUTBOX_KEY", "OUTBOX_BACKLOG"]);
    let text = stderr(&output);
    assert!(
        text.contains("`From-Flag`") && text.contains("`from-environment`"),
        "{text}"
    );
    assert!(
        text.contains("OUTBOX_BACKLOG `from-file`"),
        "an empty variable counts as unset: {text}"
    );
}

#[test]
fn a_misspelt_variable_or_key_names_the_setting_that_is_meant_and_not_the_value() {
    let wrong = [
        ("DATABASE_URI", "postgres://outboxd:Zq7Kw9Xv@db/orders"),
        ("KAFKA_BROKER", "k:9092"),
    ];
    let output = outboxd(&["run"], &wrong);
    assert_errors(&output, &["DATABASE_URL", "KAFKA_BROKERS"]);
    let text = stderr(&output);
    assert!(
        text.contains("hint: DATABASE_URI is set: did you mean DATABASE_URL?"),
        "{text}"
    );
    assert!(
        text.contains("hint: KAFKA_BROKER is set: did you mean KAFKA_BROKERS?"),
        "{text}"
    );
    assert!(!text.contains("Zq7Kw9Xv"), "{text}");

    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    write!(
        file,
        "databse_url = 'postgres://a@b/c'\nkafka_brokers = 'k:9092'\n"
    )
    .expect("written");
    let path = file.path().display().to_string();
    let output = outboxd(&["run", "--config", &path], &[]);
    assert_errors(&output, &[&format!("{path}: databse_url"), "DATABASE_URL"]);
    assert!(
        stderr(&output).contains("hint: did you mean database_url?"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_wrong_flag_gets_its_hint_in_the_form_of_all_others() {
    let output = outboxd(&["run", "--databse-url", "x"], &[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("\nhint: a similar argument exists: '--database-url'"),
        "{text}"
    );
}

#[test]
fn the_program_prints_completions_and_man_pages() {
    for shell in ["bash", "zsh", "fish"] {
        let script = outboxd(&["completions", shell], &[]);
        let text = String::from_utf8_lossy(&script.stdout).into_owned();
        assert!(
            script.status.success() && text.contains("dead-letter"),
            "{shell}: {text}"
        );
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("man1").display().to_string();
    let written = outboxd(&["man", &path], &[]);
    assert!(written.status.success(), "{}", stderr(&written));
    for page in ["outboxd.1", "outboxd-run.1", "outboxd-dead-letter-retry.1"] {
        let text = std::fs::read_to_string(folder.path().join("man1").join(page));
        let text = text.expect(page);
        assert!(text.contains("Examples:"), "{page}: {text}");
    }
    let page = outboxd(&["man"], &[]);
    let text = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(text.contains(".TH outboxd 1"), "{text}");
}

/// The program ends before it connects, since its address is in use.
#[test]
fn no_color_switches_off_the_colours_of_the_log_on_a_terminal() {
    let has_script = Command::new("script").arg("--version").output();
    if has_script.is_err() {
        return not_offered("`script`, for a terminal");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let line = format!(
        "{} run --http-listen {address}",
        env!("CARGO_BIN_EXE_outboxd")
    );
    for (no_color, coloured) in [("", true), ("1", false)] {
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env_clear()
            .envs([("DATABASE_URL", URL), ("KAFKA_BROKERS", "127.0.0.1:1")])
            .env("NO_COLOR", no_color)
            .stdin(Stdio::null())
            .output()
            .expect("script starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("cannot listen on"), "{text}");
        assert_eq!(text.contains('\x1b'), coloured, "{text}");
    }
}

#[test]
fn a_missing_settings_file_is_a_fault() {
    let output = outboxd(
        &["run", "--config", "/nowhere/outboxd.toml"],
        &[
            ("DATABASE_URL", URL),
            ("KAFKA_BROKERS", "kafka.invalid:9092"),
        ],
    );
    assert_errors(&output, &["/nowhere/outboxd.toml"]);
}

#[test]
fn an_address_that_is_in_use_ends_with_2_and_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = outboxd(
        &["run", "--http-listen", &address, "--log=off"],
        &[("DATABASE_URL", URL), ("KAFKA_BROKERS", "127.0.0.1:1")],
    );
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with(&format!("error: CONFIG_ERROR: cannot listen on {address}")),
        "{text}"
    );
    assert!(text.contains("\nhint: "), "{text}");
}

/// The program ends before it connects, since its address is in use.
#[test]
fn a_variable_that_is_no_setting_is_named_and_its_value_is_not() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = outboxd(
        &["run", "--http-listen", &address],
        &[
            ("DATABASE_URL", URL),
            ("KAFKA_BROKERS", "127.0.0.1:1"),
            ("OUTBOX_BATCH_SIZE", "50"),
            ("OUTBOX_KAFKA_PROPERTIES", "sasl.password=Zq7Kw9Xv"),
            ("OUTBOX_ENABLED", "yes"),
        ],
    );
    let log = stderr(&output);
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(
        warnings[0].contains("OUTBOX_ENABLED is not a setting"),
        "{log}"
    );
    assert!(
        warnings[1].contains("OUTBOX_KAFKA_PROPERTIES is not a setting"),
        "{log}"
    );
    assert!(
        warnings[1].contains("did you mean KAFKA_PROPERTIES?"),
        "{log}"
    );
    assert!(!log.contains("Zq7Kw9Xv"), "{log}");
}

/// The server accepts and sends nothing, so the program hangs in its start until the signal
/// arrives. Nothing reads its log by then, which must not matter.
#[test]
fn a_signal_while_starting_ends_with_0_and_health_is_served_before() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("its address").port();
    for signal in ["TERM", "INT"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outboxd"))
            .args([
                "run",
                "--http-listen=127.0.0.1:0",
                "--kafka-brokers=127.0.0.1:1",
            ])
            .env_clear()
            .env(
                "DATABASE_URL",
                format!("postgres://outboxd@127.0.0.1:{port}/orders"),
            )
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let serving = log
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains("serving"));
        let serving = serving.expect("it logs its address");
        let (_, address) = serving
            .split_once("address=")
            .expect("the address is a field");
        let mut monitor = TcpStream::connect(address.trim()).expect("it serves");
        monitor
            .write_all(b"GET /livez HTTP/1.0\r\n\r\n")
            .expect("it listens");
        let mut answer = String::new();
        monitor.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        let pid = child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        assert_eq!(
            child.wait().expect("it ends").code(),
            Some(0),
            "SIG{signal}"
        );
    }
}

#[test]
fn wrong_use_ends_with_2_and_help_with_0() {
    for arguments in [&["publish"][..], &["run", "--no-such-flag"], &[]] {
        assert_eq!(
            outboxd(arguments, &[]).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        assert_eq!(
            outboxd(arguments, &[]).status.code(),
            Some(0),
            "{arguments:?}"
        );
    }
}

#[test]
fn no_password_is_printed_wherever_it_was_put() {
    let secret = "Zq7Kw9Xv";
    let url = format!("postgres://u:{secret}@h:x/d");
    let password = format!("sasl.password={secret}");
    for arguments in [
        &["run", "--database-url", &url][..],
        &["run", &url],
        &["run", "--kafka-brokers", &url],
        &["run", "--slot", &url],
        &["run", &password],
        &["run", "--kafka", &password],
        &["run", "--config", &url],
        &[&url],
        &["run", "--help"],
    ] {
        let environment = [
            ("DATABASE_URL", url.as_str()),
            ("KAFKA_PROPERTIES", password.as_str()),
        ];
        let output = outboxd(arguments, &environment);
        let printed = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!printed.contains(secret), "{arguments:?}:\n{printed}");
    }
}
