//! What is said of the database, by the URL, libpq's variables and its files.

use super::*;

#[test]
fn urls_and_key_value_strings_say_the_same_of_a_database() {
    for (text, described) in [
        ("postgres://u:p@h:1/d", "h:1/d as u"),
        ("postgresql://u:p%40%2F@h/d%20x", "h:5432/d x as u"),
        ("host=h port=1 user=u password='p q' dbname=d", "h:1/d as u"),
        ("postgres://u@%2Ftmp:6/d", "/tmp:6/d as u"),
        ("postgres:///d?host=/tmp&user=u&port=7", "/tmp:7/d as u"),
        ("postgres://u@a:1,b:2/d", "a:1,b:2/d as u"),
        ("postgres://u@a,b/d?port=9", "a:9,b:9/d as u"),
        (
            "postgres://u@[::1]:3/d?application_name=x@y",
            "::1:3/d as u",
        ),
        ("hostaddr=127.0.0.1 user=u", "127.0.0.1:5432/u as u"),
        ("postgres://u@h", "h:5432/u as u"),
        ("postgres://u:a?b@h/d", "h:5432/d as u"),
        ("user=u  host = h dbname='it\\'s'", "h:5432/it's as u"),
    ] {
        let found = database(text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(found.describe(), described, "{text}");
    }
    let database = database("postgres://u:p%40%2F:x@h/d").unwrap();
    assert_eq!(database.pg.get_password(), Some(&b"p@/:x"[..]));
}

#[test]
fn what_the_url_leaves_open_comes_from_libpqs_variables() {
    let env = |name: &str| {
        let value = match name {
            "PGHOST" => "/sockets",
            "PGPORT" => "6000",
            "PGUSER" => "alice",
            "PGDATABASE" => "orders",
            "PGPASSWORD" => "hunter2",
            "PGSSLMODE" => "require",
            "PGCONNECT_TIMEOUT" => "7",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let found = database_in("postgres://", &env).unwrap();
    assert_eq!(found.describe(), "/sockets:6000/orders as alice");
    assert_eq!(found.pg.get_password(), Some(&b"hunter2"[..]));
    assert_eq!(found.tls.mode, SslMode::Require);
    assert_eq!(
        found.pg.get_connect_timeout(),
        Some(&Duration::from_secs(7))
    );
    let found = database_in("postgres://bob:own@h:1/d?sslmode=disable", &env).unwrap();
    assert_eq!(found.describe(), "h:1/d as bob");
    assert_eq!(found.pg.get_password(), Some(&b"own"[..]));
    assert_eq!(found.tls.mode, SslMode::Disable);
}

#[test]
fn tls_options_follow_libpq() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    let with = |query: String| database(&format!("{URL}?{query}"));
    let tls = |query: String| with(query).unwrap().tls;
    assert_eq!(tls(String::new()), TlsSettings::default());
    assert_eq!(
        tls("sslmode=verify-full".to_owned()).mode,
        SslMode::VerifyFull
    );
    assert_eq!(tls("ssl=true".to_owned()).mode, SslMode::Require);
    let verified = tls(format!("sslmode=require&sslrootcert={path}"));
    assert_eq!(
        verified.mode,
        SslMode::VerifyCa,
        "a root certificate verifies the chain"
    );
    assert_eq!(verified.root_cert.as_deref(), Some(file.path()));
    let system = tls("sslrootcert=system".to_owned());
    assert_eq!((system.mode, system.root_cert), (SslMode::VerifyFull, None));
    let client = tls(format!("sslcert={path}&sslkey={path}"));
    assert_eq!(client.cert.as_deref(), Some(file.path()));
    for (query, error) in [
        (
            "sslmode=allow".to_owned(),
            "has an sslmode that outboxd does not support",
        ),
        (
            format!("sslcert={path}"),
            "has one of sslcert and sslkey without the other",
        ),
        (
            "sslrootcert=/nowhere/root.crt".to_owned(),
            "has a sslrootcert that cannot be read",
        ),
        (
            "sslrootcert=system&sslmode=require".to_owned(),
            "has sslrootcert=system with a weaker",
        ),
        (
            "sslnegotiation=direct".to_owned(),
            "asks for sslnegotiation=direct with a weak",
        ),
    ] {
        let errors = with(query).unwrap_err().to_string();
        assert!(
            errors.starts_with(&format!("DATABASE_URL {error}")),
            "{errors}"
        );
    }
}

#[test]
fn each_wrong_option_of_a_url_is_named() {
    for (url, error) in [
        ("", "is not set"),
        ("db.example", "is not a libpq connection string"),
        ("postgres://u@h/d?port", "is not a libpq connection string"),
        ("postgres://u%zz@h/d", "is not a libpq connection string"),
        ("postgres://u@h:port/d", "has a port that is not valid"),
        (
            "postgres://u@h/d?connect_timeout=soon",
            "has a connect_timeout that is not valid",
        ),
        (
            "postgres://u@h/d?tcp_user_timeout=soon",
            "has a tcp_user_timeout that is not a number",
        ),
        (
            "postgres://u@h/d?gssdelegation=x",
            "has the option gssdelegation, which outboxd does not support",
        ),
        (
            "postgres://u@h/d?pgbouncer=true",
            "has an option that libpq does not know",
        ),
        (
            "postgres://u@h/d?target_session_attrs=standby",
            "has a target_session_attrs that",
        ),
        ("postgres://h/d", "names no user"),
        (
            "host=a,b port=1,2,3 user=u",
            "has more ports than hosts, or fewer",
        ),
        ("host=a,,b user=u", "has an empty host in its list"),
        (
            "host=a,b hostaddr=127.0.0.1 user=u",
            "has different numbers of host and hostaddr",
        ),
    ] {
        let errors = messages(&database(url).unwrap_err());
        assert_eq!(errors.len(), 1, "{url}: {errors:#?}");
        assert!(
            errors[0].starts_with(&format!("DATABASE_URL {error}")),
            "{url}: {}",
            errors[0]
        );
    }
}

#[test]
fn libpqs_words_are_translated() {
    let found = database(&format!("{URL}?tcp_user_timeout=1500&keepalives_count=4")).unwrap();
    assert_eq!(
        found.pg.get_tcp_user_timeout(),
        Some(&Duration::from_secs(2))
    );
    assert_eq!(found.pg.get_keepalives_retries(), Some(4));
    let quiet = "gssencmode=prefer&client_encoding=UTF8&fallback_application_name=x";
    database(&format!("{URL}?{quiet}")).unwrap();
    let primary = tokio_postgres::config::TargetSessionAttrs::ReadWrite;
    for text in [
        "postgres://u@a,b/d",
        "postgres://u@a/d?target_session_attrs=primary",
    ] {
        assert_eq!(
            database(text).unwrap().pg.get_target_session_attrs(),
            primary,
            "{text}"
        );
    }
}

#[test]
fn a_password_file_gives_the_password_of_the_line_that_matches() {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        b"# comment\nother:*:*:*:wrong\nh:5432:d:bob:wrong\n\
          h:5432:*:u:it\\:s:all\nlocalhost:*:*:*:socket\n",
    )
    .unwrap();
    let path = file.path().display().to_string();
    let env = |name: &str| (name == "PGPASSFILE").then(|| path.clone());
    let password = |url: &str| {
        database_in(url, &env)
            .unwrap()
            .pg
            .get_password()
            .map(<[u8]>::to_vec)
    };
    assert_eq!(password("postgres://u@h/d").unwrap(), b"it:s:all");
    assert_eq!(password("postgres://u@x,h/d").unwrap(), b"it:s:all");
    assert_eq!(password("host=/run/pg user=u").unwrap(), b"socket");
    assert_eq!(password("postgres://u@h:1/d"), None);
    assert_eq!(password("postgres://u:own@h/d").unwrap(), b"own");
    let named = database(&format!("postgres://u@h/d?passfile={path}")).unwrap();
    assert_eq!(named.pg.get_password(), Some(&b"it:s:all"[..]));
}

#[cfg(unix)]
#[test]
fn a_password_file_that_does_not_count_is_no_fault_until_the_server_asks() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let path = file.path().display().to_string();
    let env = |name: &str| (name == "PGPASSFILE").then(|| path.clone());
    let found = database_in("postgres://u@h/d", &env).unwrap();
    assert_eq!(found.pg.get_password(), None);
    let why = found.ignored_passfile.unwrap();
    assert!(
        why.contains(&path) && why.contains("that others may read; chmod 600"),
        "{why}"
    );
    let absent = |name: &str| (name == "PGPASSFILE").then(|| "/no/such/file".to_owned());
    let found = database_in("postgres://u@h/d", &absent).unwrap();
    assert_eq!(found.ignored_passfile, None);
}

#[test]
fn replication_may_have_a_login_of_its_own_on_the_same_database() {
    let given = |replication: &str| Settings {
        database_url: Some("postgres://app:a@h/d".to_owned()),
        replication_url: Some(replication.to_owned()),
        ..valid()
    };
    let config = build(given("postgres://stream:s@h/d")).unwrap();
    assert_eq!(config.database.user(), "app");
    let replication = config.database.for_replication();
    assert_eq!(replication.user(), "stream");
    assert_eq!(replication.pg.get_password(), Some(&b"s"[..]));
    let one = build(valid()).unwrap();
    assert_eq!(one.database.for_replication().user(), one.database.user());
    let error = only_error(build(given("postgres://stream@h/other")));
    assert!(
        error.starts_with("REPLICATION_URL names another database than DATABASE_URL"),
        "{error}"
    );
    let error = only_error(build(given("db.example")));
    assert!(
        error.starts_with("REPLICATION_URL is not a libpq connection string"),
        "{error}"
    );
    let alone = Settings {
        replication_password_file: Some("/file".to_owned()),
        ..valid()
    };
    let error = only_error(build(alone));
    assert!(
        error.starts_with("REPLICATION_PASSWORD_FILE is set without REPLICATION_URL"),
        "{error}"
    );
    let both = Settings {
        replication_password_command: Some("token".to_owned()),
        ..given("postgres://stream:s@h/d")
    };
    let error = only_error(build(both));
    assert!(
        error.starts_with("REPLICATION_PASSWORD_COMMAND names a password"),
        "{error}"
    );
}

#[test]
fn the_password_can_come_from_a_command_but_not_from_two_places() {
    let given = |url: &str, command: &str, file: Option<&str>| Settings {
        database_url: Some(url.to_owned()),
        database_password_command: Some(command.to_owned()),
        database_password_file: file.map(str::to_owned),
        ..valid()
    };
    let config = build(given("postgres://u@h/d", "token hunter2", None)).unwrap();
    assert_eq!(config.database.pg.get_password(), None);
    let command = config.database.password_command.as_ref();
    assert_eq!(command.unwrap().command.expose(), "token hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    for (url, command, file, problem) in [
        (
            "postgres://u:p@h/d",
            "token",
            None,
            "names a password and DATABASE_URL has one",
        ),
        (
            "postgres://u@h/d",
            "token",
            Some("/file"),
            "names a password and DATABASE_PASSWORD_FILE has one",
        ),
    ] {
        let error = only_error(build(given(url, command, file)));
        let start = format!("DATABASE_PASSWORD_COMMAND {problem}");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn the_password_can_be_a_file_of_its_own_but_not_in_two_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "hunter2 \n").unwrap();
    let given = |url: &str, path: &std::path::Path| Settings {
        database_url: Some(url.to_owned()),
        database_password_file: Some(path.display().to_string()),
        ..valid()
    };
    let config = build(given("postgres://u@h/d", &path)).unwrap();
    assert_eq!(config.database.pg.get_password(), Some(&b"hunter2 "[..]));
    let error = only_error(build(given("postgres://u:p@h/d", &path)));
    assert!(
        error.starts_with("DATABASE_PASSWORD_FILE names a password and DATABASE_URL"),
        "{error}"
    );
    let error = only_error(build(given(
        "postgres://u@h/d",
        &folder.path().join("none"),
    )));
    assert!(
        error.starts_with("DATABASE_PASSWORD_FILE cannot be read: "),
        "{error}"
    );
}
