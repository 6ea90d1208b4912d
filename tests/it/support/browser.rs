//! A real browser: headless Chromium, driven over WebDriver by its chromedriver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::ephemeral::{Guard, free_port, new_folder};

const LIMIT: Duration = Duration::from_secs(30);
const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";

/// One window. Dropping it ends the browser.
pub(crate) struct Browser {
    port: u16,
    session: String,
    guard: Guard,
}

impl Browser {
    /// Starts a browser; `None` where Chromium is not installed.
    pub(crate) fn start() -> Result<Option<Browser>> {
        if !Path::new(CHROMIUM).exists() || !Path::new(DRIVER).exists() {
            super::not_offered("the status page in Chromium (packages chromium, chromium-driver)");
            return Ok(None);
        }
        let (dir, port) = (new_folder("browser", None)?, free_port()?);
        let mut guard = Guard::new(&dir, None, "KILL")?;
        guard.start(&[DRIVER, &format!("--port={port}")])?;
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                bail!("chromedriver does not listen: {}", guard.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let profile = format!("--user-data-dir={}", dir.join("profile").display());
        // Nothing but the page is to be fetched, and root has no sandbox.
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--force-color-profile=srgb",
            &profile,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": CHROMIUM, "args": arguments },
        } } });
        let mut browser = Browser {
            port,
            session: String::new(),
            guard,
        };
        let made = browser.call("POST", "/session", &wanted)?;
        let session = made["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{session}");
        Ok(Some(browser))
    }

    pub(crate) fn open(&self, url: &str) -> Result<()> {
        self.post("url", &json!({ "url": url })).map(drop)
    }

    /// The value that a function body returns in the page.
    pub(crate) fn run(&self, script: &str) -> Result<Value> {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script until it returns true.
    pub(crate) fn wait_for(&self, script: &str) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while self.run(script)? != Value::Bool(true) {
            if Instant::now() > end {
                let text = self.run("return document.body.innerText")?;
                bail!("{script} is not true within {LIMIT:?} in {text}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The size of the window in CSS pixels, and the colour scheme that the reader prefers.
    pub(crate) fn look(&self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size)?;
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": scheme }))?;
        Ok(())
    }

    /// A picture of the whole page in `folder`, if one is named.
    pub(crate) fn picture(&self, folder: Option<&Path>, name: &str) -> Result<()> {
        let Some(folder) = folder else {
            return Ok(());
        };
        let whole = json!({ "captureBeyondViewport": true });
        let answer = self.devtools("Page.captureScreenshot", whole)?;
        let data = answer["data"].as_str().context("no picture")?;
        let bytes = openssl::base64::decode_block(data)?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.png")), bytes)?;
        Ok(())
    }

    fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", &body)
    }

    fn post(&self, what: &str, body: &Value) -> Result<Value> {
        self.call("POST", &format!("{}/{what}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = body.to_string();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        // The driver keeps the connection open, whatever it is asked.
        let mut answer = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            answer.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        let mut body: Value = serde_json::from_slice(&body)?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{method} {path}: {body}; {}", self.guard.last_words());
        }
        Ok(body["value"].take())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser; the guard ends the driver.
        let _ = self.call("DELETE", &self.session, &json!({}));
    }
}
