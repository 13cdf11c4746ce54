-- wrk's side of benches/run: requests over a file of paths, and one line of JSON at the end.
--
--   BENCH_PATHS   file with one path a line
--   BENCH_ORDER   cycle: one after the other; random: uniformly over the file
--   BENCH_METHOD  GET, POST or PUT (default GET)
--   BENCH_BODY    JSON that is sent, where it is set; `{n}` in it is the number of the request
--   BENCH_TOKEN   sent as a bearer, where it is set
--   BENCH_BODIES  file with one body a line, of which each goes with the path of the same line (default: none)
--   BENCH_TYPE    what those bodies are (default: application/json)
--   BENCH_TOKENS  file with one bearer a line, of which each goes with the path of the same line (default: BENCH_TOKEN)
--   BENCH_RATE    so many requests a second, evenly; as many as are answered where it is not set
--
-- The yardsticks are driven by this file too, so that wrk's own work is the same on both sides.

local requests, template, random, at, sent = {}, nil, false, 0, 0

function init()
  local method, token, bodies = os.getenv("BENCH_METHOD") or "GET", os.getenv("BENCH_TOKEN"), os.getenv("BENCH_BODIES")
  local head = " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
  if token then head = head .. "Authorization: Bearer " .. token .. "\r\n" end
  template = os.getenv("BENCH_BODY")
  local next_body = bodies and io.lines(bodies)
  local tokens = os.getenv("BENCH_TOKENS")
  local next_token = tokens and io.lines(tokens)
  -- Written out ahead, so that a request costs wrk no more than a look at a table; but for a body that holds its number.
  for path in io.lines(os.getenv("BENCH_PATHS")) do
    local start = method .. " " .. path .. head
    if next_token then start = start .. "Authorization: Bearer " .. next_token() .. "\r\n" end
    if template then
      requests[#requests + 1] = start .. "Content-Type: application/json\r\n"
    else
      local body = next_body and next_body() or ""
      local tail = "\r\n"
      if method == "POST" then tail = "Content-Length: " .. #body .. "\r\n\r\n" .. body end
      if #body > 0 then tail = "Content-Type: " .. (os.getenv("BENCH_TYPE") or "application/json") .. "\r\n" .. tail end
      requests[#requests + 1] = start .. tail
    end
  end
  random = os.getenv("BENCH_ORDER") == "random"
  math.randomseed(1)
end

function request()
  if random then
    at = math.random(#requests)
  else
    at = at % #requests + 1
  end
  if not template then return requests[at] end
  sent = sent + 1
  local text = template:gsub("{n}", tostring(sent))
  return requests[at] .. "Content-Length: " .. #text .. "\r\n\r\n" .. text
end

-- wrk asks for a pause before each request only where there is such a function.
if os.getenv("BENCH_RATE") then
  local ffi = require("ffi")
  ffi.cdef("typedef struct { long sec; long nsec; } moment; int clock_gettime(int which, moment *at);")
  local apart, moment, began, planned = 1000 / tonumber(os.getenv("BENCH_RATE")), ffi.new("moment"), nil, 0

  function delay()
    -- CLOCK_MONOTONIC, in milliseconds.
    ffi.C.clock_gettime(1, moment)
    local now = tonumber(moment.sec) * 1000 + tonumber(moment.nsec) / 1e6
    began = began or now
    planned = planned + 1
    -- A server that is late is caught up with, as far as the connections go.
    return math.max(0, math.floor(began + planned * apart - now))
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
