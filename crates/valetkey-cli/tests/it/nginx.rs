//! The proxy in front of a real nginx: what arrives there, and that large bodies are streamed and never held.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Body, Method, StatusCode};
use serde_json::json;

use crate::scene::{LabProvider, On, PATIENCE, Plan, Scene, Usable, on_each};

/// The body that is passed through.
const LARGE: u64 = 256 * 1024 * 1024;
/// How much more memory the broker may use meanwhile, in KiB.
const GROWTH: u64 = 32 * 1024;

/// A running nginx; dropping it kills it.
struct Nginx {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Nginx {
    async fn start() -> Self {
        let program = std::env::var("VALETKEY_TEST_NGINX")
            .expect("VALETKEY_TEST_NGINX is not set: run ./scripts/test, or ./scripts/test --peers for a shell");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // A hole in a file system is zeros without a disk.
        fs::File::create(path.join("large")).unwrap().set_len(LARGE).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            r#"
daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
  client_max_body_size 0; sendfile on;
  server {{
    listen {address};
    location = /headers {{ default_type text/plain; return 200 "$request_method|$http_authorization|$http_x_mine|$http_cookie"; }}
    location = /large {{ root {path}; }}
    # Read to the end by the server behind, of which nginx waits for every byte.
    location = /upload {{ proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://{address}/taken; }}
    location = /taken {{ client_body_in_file_only clean; client_body_buffer_size 1m; proxy_set_header X-Length $http_content_length;
      proxy_pass http://{address}/length; proxy_pass_request_body off; proxy_set_header Content-Length ""; }}
    location = /length {{ default_type text/plain; return 200 $http_x_length; }}
  }}
}}
"#,
            path = path.display()
        );
        fs::write(path.join("nginx.conf"), config).unwrap();
        let process = Command::new(program)
            .args(["-p", path.to_str().unwrap(), "-c", path.join("nginx.conf").to_str().unwrap(), "-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut nginx = Self { process, address, _folder: folder };
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(nginx.process.try_wait().unwrap().is_none(), "nginx ended");
            assert!(began.elapsed() < PATIENCE, "nginx is not ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection of the lab that may also be used at nginx.
async fn behind_the_proxy(on: On, nginx: &Nginx) -> (Scene, Usable) {
    let mut plan = Plan::new(on);
    plan.allowed.push(nginx.address);
    plan.providers = vec![LabProvider {
        edits: vec![
            ("hosts = [".to_owned(), format!("hosts = [\"{}\", ", nginx.address)),
            ("path_allow = { ".to_owned(), format!("path_allow = {{ \"{}\" = [\"/**\"], ", nginx.address)),
        ],
        ..LabProvider::usual()
    }];
    let scene = Scene::start(plan).await;
    let usable = scene.usable("lab").await;
    (scene, usable)
}

impl Nginx {
    fn url(&self, scene: &Scene, usable: &Usable, path: &str) -> String {
        format!("{}/v1/proxy/{}/~{}{path}", scene.replicas[0].url(), usable.connection, self.address)
    }
}

/// Resident memory in KiB.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

on_each! {
    async fn nginx_gets_the_connection_s_credential_and_none_of_the_caller_s(on: On) {
        let nginx = Nginx::start().await;
        let (scene, usable) = behind_the_proxy(on, &nginx).await;
        let token = scene.reveal(0, &usable).await.access_token().to_owned();
        let request = scene.http.request(Method::PUT, nginx.url(&scene, &usable, "/headers"));
        let request = request.bearer_auth(&usable.token.token).header("x-mine", "kept").header("cookie", "session=1").body("x");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.text().await.unwrap(), format!("PUT|Bearer {token}|kept|"));
    }

    async fn a_large_body_passes_in_both_directions_without_being_held(on: On) {
        let nginx = Nginx::start().await;
        let (scene, usable) = behind_the_proxy(on, &nginx).await;
        let process = scene.replicas[0].id();
        assert_eq!(scene.proxy(0, &usable, "me").await.body["username"], json!("alice"));
        let idle = resident(process);
        let mut most = idle;

        let request = scene.http.get(nginx.url(&scene, &usable, "/large")).bearer_auth(&usable.token.token);
        let mut response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let (mut length, mut looked) = (0, 0);
        while let Some(piece) = response.chunk().await.unwrap() {
            length += piece.len() as u64;
            if length - looked > 8 * 1024 * 1024 {
                looked = length;
                most = most.max(resident(process));
            }
        }
        assert_eq!(length, LARGE);

        let file = tokio::fs::File::from_std(zeros());
        let request = scene.http.put(nginx.url(&scene, &usable, "/upload")).bearer_auth(&usable.token.token);
        let sending = tokio::spawn(request.header("content-length", LARGE).body(Body::from(file)).send());
        while !sending.is_finished() {
            most = most.max(resident(process));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let response = sending.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.text().await.unwrap(), LARGE.to_string());

        assert!(most < idle + GROWTH, "{idle} KiB when idle, {most} KiB while {LARGE} bytes passed");
    }
}

fn zeros() -> fs::File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LARGE).unwrap();
    file
}
