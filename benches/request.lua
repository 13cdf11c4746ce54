-- wrk's side of benches/run: requests over a file of paths, and one line of JSON at the end.
--
--   BENCH_PATHS   file with one path a line
--   BENCH_ORDER   cycle: one after the other; random: uniformly over the file
--   BENCH_METHOD  GET, POST or PUT (default GET)
--   BENCH_BODY    JSON that is sent, where it is set; `{n}` in it is the number of the request
--   BENCH_TOKEN   sent as a bearer, where it is set
--
-- The yardsticks are driven by this file too, so that wrk's own work is the same on both sides.

local paths, head, tail, body, random, at, sent = {}, nil, nil, nil, false, 0, 0

function init()
  for line in io.lines(os.getenv("BENCH_PATHS")) do paths[#paths + 1] = line end
  local method, token = os.getenv("BENCH_METHOD") or "GET", os.getenv("BENCH_TOKEN")
  head = method .. " "
  tail = " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
  if token then tail = tail .. "Authorization: Bearer " .. token .. "\r\n" end
  body = os.getenv("BENCH_BODY")
  if body then
    tail = tail .. "Content-Type: application/json\r\n"
  else
    if method == "POST" then tail = tail .. "Content-Length: 0\r\n" end
    tail = tail .. "\r\n"
  end
  random = os.getenv("BENCH_ORDER") == "random"
  math.randomseed(1)
end

function request()
  if random then
    at = math.random(#paths)
  else
    at = at % #paths + 1
  end
  if not body then return head .. paths[at] .. tail end
  sent = sent + 1
  local text = body:gsub("{n}", tostring(sent))
  return head .. paths[at] .. tail .. "Content-Length: " .. #text .. "\r\n\r\n" .. text
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
