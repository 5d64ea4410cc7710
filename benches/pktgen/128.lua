-- Frames of 128 bytes (RFC 2544 section 9.1). See profile.lua.
package.path = package.path .. ";?.lua"
require("profile").single(128)
