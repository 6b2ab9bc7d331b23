// How values are written; the same as on the command line (cxfr_proxy/admin/text.py).

const WHOLE = new Intl.NumberFormat("en");
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const NOTHING = "–";

/** Text of strangers: what does not print, or turns text around, is escaped as in the log. */
export const clean = (value) =>
  String(value).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (char) => {
    const code = char.codePointAt(0);
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
  });

export const number = (value) => (Number.isFinite(value) ? WHOLE.format(value) : NOTHING);

export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export const duration = (seconds) => {
  if (!Number.isFinite(seconds)) return NOTHING;
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)}s`;
  const whole = Math.floor(seconds);
  const two = (value) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
};

/** About so long, for what has no tenths of a second. */
export const roughly = (seconds) => (seconds >= 10 ? duration(seconds) : `${Math.max(1, Math.round(seconds))}s`);

/** A number per second, with as many digits as say something. */
export const rate = (perSecond) => {
  if (!Number.isFinite(perSecond)) return NOTHING;
  const size = Math.abs(perSecond);
  const text = size >= 10 || size === 0 ? number(Math.round(perSecond)) : perSecond.toFixed(size >= 1 ? 1 : 2);
  return `${/^-?[0.]+$/.test(text) ? "0" : text}/s`;
};

/** A change per second, with its sign; nothing where there is none. */
export const change = (perSecond) => {
  const text = rate(perSecond);
  if (text === "0/s" || text === NOTHING) return NOTHING;
  return perSecond > 0 ? `+${text}` : text.replace("-", "−");
};

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(share * 100)}%` : NOTHING);

export const bytes = (size) => {
  if (!Number.isFinite(size)) return NOTHING;
  if (size >= 2 ** 30) return `${(size / 2 ** 30).toFixed(1)} GiB`;
  if (size >= 2 ** 20) return `${(size / 2 ** 20).toFixed(0)} MiB`;
  return `${Math.ceil(size / 2 ** 10)} KiB`;
};

export const time = (date) => (Number.isNaN(date.getTime()) ? NOTHING : TIME.format(date));
export const clock = (date) => CLOCK.format(date);
