//! A service of libpq in the place of a connection string, and libpq's other ways to a host.

use std::path::Path;

use super::*;

const FILE: &str = "# services\n\n[other]\nhost=elsewhere\n\n\
                    [orders]\nhost=db.example\nport=6000\nhost=second\n  user=alice\n\
                    dbname=orders\npassword=hunter2 = x\nsslmode=disable\n[last]\nhost=x\n";

/// What is found in this environment; files are named by their paths below the folder.
fn found(folder: &Path, url: &str, variables: &[(&str, &str)]) -> Result<Database, String> {
    let env = |name: &str| {
        let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
        Some(value.replace("FOLDER", &folder.display().to_string()))
    };
    let url = url.replace("FOLDER", &folder.display().to_string());
    let errors = |errors: SettingErrors| messages(&errors).join("; ");
    database_in(&url, &env).map_err(errors)
}

#[test]
fn a_service_fills_in_what_the_connection_string_leaves_open() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join(".pg_service.conf");
    std::fs::write(folder.path().join("named"), FILE).unwrap();
    let in_file = ("PGSERVICEFILE", "FOLDER/named");
    let with = |url: &str, variables: &[(&str, &str)]| found(folder.path(), url, variables);
    for (url, variables) in [
        ("service=orders", vec![in_file]),
        ("postgresql://?service=orders", vec![in_file]),
        ("postgresql://", vec![in_file, ("PGSERVICE", "orders")]),
        ("service=orders servicefile=FOLDER/named", vec![]),
        ("service=orders", vec![in_file, ("PGHOST", "not-this")]),
        ("service=orders", vec![in_file, ("PGSERVICE", "other")]),
    ] {
        let database = with(url, &variables).unwrap();
        assert_eq!(
            database.describe(),
            "db.example:6000/orders as alice",
            "{url}"
        );
        assert_eq!(database.pg.get_password(), Some(&b"hunter2 = x"[..]));
        assert_eq!(database.tls.mode, SslMode::Disable);
    }
    let own = with("postgresql://bob@h:7?service=orders", &[in_file]).unwrap();
    assert_eq!(own.describe(), "h:7/orders as bob");
    // The home's file, then that of the system's folder.
    std::fs::write(&home, "[here]\nhost=home\nuser=u\n").unwrap();
    std::fs::create_dir(folder.path().join("system")).unwrap();
    std::fs::write(folder.path().join("system/pg_service.conf"), FILE).unwrap();
    let places = [("HOME", "FOLDER"), ("PGSYSCONFDIR", "FOLDER/system")];
    assert_eq!(
        with("service=here", &places).unwrap().describe(),
        "home:5432/u as u"
    );
    let system = with("service=orders", &places).unwrap();
    assert_eq!(system.describe(), "db.example:6000/orders as alice");
}

#[test]
fn a_service_that_cannot_be_used_is_named_and_nothing_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("named", FILE);
    write("half", "[s]\nhost=h\nhunter2\n");
    write("nested", "[s]\nservice=hunter2\n");
    write("ldap", "[s]\nldap://hunter2/dc=x\n");
    write("unknown", "[s]\nhost=h\nuser=u\nhunter2=x\n");
    let named = |name: &str| format!("service=s servicefile=FOLDER/{name}");
    for (url, variables, error) in [
        (
            "service=hunter2".to_owned(),
            vec![("PGSERVICEFILE", "FOLDER/named")],
            "DATABASE_URL names a service that no service file has",
        ),
        (
            "postgresql://u@h".to_owned(),
            vec![("PGSERVICEFILE", "FOLDER/named"), ("PGSERVICE", "hunter2")],
            "PGSERVICE names a service that no service file has",
        ),
        (
            "service=s".to_owned(),
            vec![("PGSERVICEFILE", "FOLDER/none")],
            "PGSERVICEFILE has a service file that cannot be read: No such file",
        ),
        (
            named("half"),
            vec![],
            "DATABASE_URL has a service file whose line 3 is not valid",
        ),
        (
            named("nested"),
            vec![],
            "DATABASE_URL has a service file whose line 2 is not valid",
        ),
        (
            named("ldap"),
            vec![],
            "DATABASE_URL has a service of LDAP in line 2",
        ),
        (
            named("unknown"),
            vec![],
            "DATABASE_URL has an option that libpq does not know",
        ),
    ] {
        let found = found(folder.path(), &url, &variables).unwrap_err();
        assert!(found.starts_with(error), "{url}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn pghostaddr_and_abstract_sockets_mean_what_they_mean_to_libpq() {
    let folder = tempfile::tempdir().unwrap();
    let with = |url: &str, variables: &[(&str, &str)]| found(folder.path(), url, variables);
    let address = [("PGHOSTADDR", "127.0.0.1")];
    let named = with("postgresql://u@db.example/d", &address).unwrap();
    assert_eq!(named.describe(), "db.example:5432/d as u");
    assert_eq!(
        named.pg.get_hostaddrs(),
        ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        with("user=u", &address).unwrap().describe(),
        "127.0.0.1:5432/u as u"
    );
    let own = with("hostaddr=::1 user=u", &address).unwrap();
    assert_eq!(own.describe(), "::1:5432/u as u");
    let wrong = with("postgresql://u@h/d", &[("PGHOSTADDR", "db.example")]).unwrap_err();
    assert!(
        wrong.starts_with("DATABASE_URL has a hostaddr that is not valid"),
        "{wrong}"
    );
    let two = with("postgresql://u@a,b/d", &address).unwrap_err();
    assert!(
        two.contains("different numbers of host and hostaddr"),
        "{two}"
    );
    for url in ["host=@outbox user=u", "postgresql://u@%40outbox/u"] {
        let found = with(url, &[]).unwrap();
        assert_eq!(found.describe(), "@outbox:5432/u as u");
        let folder = found.pg.get_hosts().first().and_then(socket_folder);
        assert_eq!(folder.as_deref(), Some(Path::new("\0outbox")));
    }
}
