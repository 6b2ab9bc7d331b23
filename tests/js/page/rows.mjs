// Rows as the proxy sends them.

export const HOSTILE = '<img src=x onerror="alert(1)">\u202e\u0007\n"\'&';

export const node = (name, more = {}) => ({
  kind: "node",
  name,
  address: "10.0.0.1:5222",
  public: null,
  admin_state: "ready",
  health: "up",
  weight: 1,
  sessions: 10,
  moved: 0,
  connect_failures: 0,
  forged: 0,
  asked: 0,
  refused: 0,
  silent: 0,
  failed: 0,
  usable: true,
  waiting: 0,
  entered: 10,
  health_seconds: null,
  check: "ok 3 ms",
  check_seconds_ago: 1,
  warm_up: 1,
  returned: 0,
  drain: null,
  drain_reason: null,
  priority: 0,
  ...more,
});

export const drain = (more = {}) => ({
  kind: "drain-progress",
  node: "node1",
  total: 100,
  asked: 60,
  moved: 50,
  refused: 5,
  silent: 5,
  failed: 0,
  left: 50,
  finished: false,
  waiting_reason: null,
  returned: 40,
  settling_seconds: null,
  rungs: [],
  per_second: null,
  paced_by: null,
  ...more,
});

export const plan = (more = {}) => ({
  kind: "drain-plan",
  node: "node1",
  sessions: 1204,
  inactive: 310,
  targets: [
    { node: "node2", sessions: 800 },
    { node: "node3", sessions: 404 },
  ],
  rate: 50,
  seconds: 24,
  stay_down: 0,
  paced_rate: null,
  migrate: 0,
  refuses_logins: null,
  ...more,
});

export const sample = (minute, more = {}) => ({
  kind: "history",
  time: new Date(Date.UTC(2026, 0, 31, 12, minute)).toISOString(),
  seconds: 10,
  sessions: 100 + minute,
  logins: 1,
  logins_failed: 0,
  moved: 2,
  refused: 1,
  silent: 0,
  failed: 0,
  ...more,
});

export const event = (count, more = {}) => ({
  kind: "event",
  time: `2026-01-31T12:00:${String(count).padStart(2, "0")}.000Z`,
  level: "INFO",
  event: "node-up",
  count,
  process: "supervisor",
  details: "node=node1",
  ...more,
});
