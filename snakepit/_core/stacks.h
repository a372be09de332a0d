/* Reading the Python stack of a thread without its help.

   The thread may be stuck in C with the GIL held, and is never stopped or interrupted: no signal is sent to it. Its
   frames are copied by process_vm_readv, which returns an error where a pointer has gone stale, so a reader that meets a
   frame in the middle of a change gets less, or a line too many, but neither it nor the thread can crash. (faulthandler
   dereferences what it finds, interrupts the system call that the task sleeps in, and on 3.13 says nothing more once
   its own walk went wrong.) Nothing here calls the interpreter: any native thread may. */
#ifndef SNAKEPIT_STACKS_H
#define SNAKEPIT_STACKS_H

#include <Python.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SP_STACK_WHOLE = 1, SP_STACK_MOVED = 2, SP_STACK_REFUSED = 4, SP_STACK_UNKNOWN = 8 };

#if defined(__linux__) && PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030F0000
#define SP_HAVE_STACKS 1
#include <sys/uio.h>

/* The first words of the interpreter's frame, which no public header declares; a wrong guess would be noticed, since
   what stands for the code object must have the type of one. */
typedef struct {
#if PY_VERSION_HEX < 0x030C0000
    void *function, *globals, *builtins, *locals;
    uintptr_t code;
    void *object;
    uintptr_t previous, instruction;
#elif PY_VERSION_HEX < 0x030D0000
    uintptr_t code, previous;
    void *function, *globals, *builtins, *locals, *object;
    uintptr_t instruction;
#else
    uintptr_t code, previous;               /* in 3.14 the low bits of `code` are a tag */
    void *function, *globals, *builtins, *locals, *object;
    uintptr_t instruction;
#endif
} sp_frame;

typedef struct { uintptr_t frame, code, instruction; } sp_place;

enum { SP_MOST_FRAMES = 64, SP_MOST_STEPS = 256, SP_TRIES = 8 };

static int sp_read(uintptr_t from, void *to, size_t size) {
    struct iovec here = {to, size}, there = {(void *)from, size};
    if (from < 4096) return 0;
    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)size;
}

static int sp_is(uintptr_t object, PyTypeObject *type) {
    PyObject head;
    return !(object & 7) && sp_read(object, &head, sizeof head) && head.ob_type == type;
}

/* Copy the chain of frames, innermost first: how many, -1 if not even the first step can be read. */
static int sp_chain(uintptr_t tstate, sp_place *places, int *whole) {
    uintptr_t at = 0;
    sp_frame frame;
    int found = 0, steps = 0;
    *whole = 0;
#if PY_VERSION_HEX < 0x030D0000
    uintptr_t cframe = 0;
    if (!sp_read(tstate + offsetof(PyThreadState, cframe), &cframe, sizeof cframe)) return -1;
    if (!sp_read(cframe + offsetof(_PyCFrame, current_frame), &at, sizeof at)) return -1;
#else
    if (!sp_read(tstate + offsetof(PyThreadState, current_frame), &at, sizeof at)) return -1;
#endif
    while (at && found < SP_MOST_FRAMES && steps++ < SP_MOST_STEPS) {
        if (!sp_read(at, &frame, sizeof frame)) return found;
        frame.code &= ~(uintptr_t)3;
        /* Frames of C code that calls Python have no code object. */
        if (sp_is(frame.code, &PyCode_Type)) {
            places[found].frame = at;
            places[found].code = frame.code;
            places[found].instruction = frame.instruction;
            found++;
        }
        at = frame.previous;
    }
    *whole = at == 0;
    return found;
}

/* The bytes of a bytes object, through a small window. */
typedef struct { uintptr_t at; size_t left; unsigned char bytes[256]; int next, filled; } sp_window;

static int sp_byte(sp_window *w) {
    if (w->next >= w->filled) {
        size_t size = w->left < sizeof w->bytes ? w->left : sizeof w->bytes;
        if (size == 0 || !sp_read(w->at, w->bytes, size)) return -1;
        w->at += size;
        w->left -= size;
        w->next = 0;
        w->filled = (int)size;
    }
    return w->bytes[w->next++];
}

static int sp_peek(sp_window *w) {
    int byte = sp_byte(w);
    if (byte >= 0) w->next--;
    return byte;
}

static int sp_signed_varint(sp_window *w) {
    unsigned value = 0;
    int shift = 0, byte;
    do {
        byte = sp_byte(w);
        if (byte < 0) return 0;
        if (shift < 30) value |= (unsigned)(byte & 63) << shift;
        shift += 6;
    } while (byte & 64);
    return value & 1 ? -(int)(value >> 1) : (int)(value >> 1);
}

/* The line of an instruction, by the location table that CPython's Objects/locations.md describes; 0: unknown. */
static int sp_line(uintptr_t code_at, PyCodeObject *code, uintptr_t instruction) {
    PyVarObject table;
    sp_window window;
    intptr_t offset = (intptr_t)(instruction - (code_at + offsetof(PyCodeObject, co_code_adaptive)));
    intptr_t end = 0;
    int line = code->co_firstlineno, byte;
    if (offset < 0) return line;
    if (!sp_is((uintptr_t)code->co_linetable, &PyBytes_Type)) return 0;
    if (!sp_read((uintptr_t)code->co_linetable, &table, sizeof table)) return 0;
    if (table.ob_size <= 0 || table.ob_size > 1 << 22) return 0;
    window.at = (uintptr_t)code->co_linetable + offsetof(PyBytesObject, ob_sval);
    window.left = (size_t)table.ob_size;
    window.next = window.filled = 0;
    while ((byte = sp_byte(&window)) >= 0) {
        int kind = (byte >> 3) & 15;
        end += ((byte & 7) + 1) * (intptr_t)sizeof(uint16_t);
        if (kind == 13 || kind == 14) line += sp_signed_varint(&window);
        else if (kind == 11 || kind == 12) line += kind - 10;
        if (offset < end) return kind == 15 ? 0 : line;
        while ((byte = sp_peek(&window)) >= 0 && !(byte & 128)) sp_byte(&window);
    }
    return 0;
}

static size_t sp_utf8(uint32_t c, char *to) {
    if (c < 0x80) { to[0] = c ? (char)c : '?'; return 1; }
    if (c < 0x800) { to[0] = (char)(0xC0 | c >> 6); to[1] = (char)(0x80 | (c & 63)); return 2; }
    if ((c >= 0xD800 && c < 0xE000) || c > 0x10FFFF) { to[0] = '?'; return 1; }
    if (c < 0x10000) {
        to[0] = (char)(0xE0 | c >> 12); to[1] = (char)(0x80 | (c >> 6 & 63)); to[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    to[0] = (char)(0xF0 | c >> 18); to[1] = (char)(0x80 | (c >> 12 & 63));
    to[2] = (char)(0x80 | (c >> 6 & 63)); to[3] = (char)(0x80 | (c & 63));
    return 4;
}

enum { SP_MOST_CHARACTERS = 240, SP_TEXT_ROOM = SP_MOST_CHARACTERS * 4 + 4 };

/* A string object as UTF-8, at most its last 240 characters; returns its bytes, without an end mark. */
static size_t sp_text(uintptr_t object, char *to) {
    PyASCIIObject head;
    unsigned char raw[SP_MOST_CHARACTERS * 4];
    Py_ssize_t count, skipped = 0, i;
    uintptr_t data;
    size_t used = 0, kind;
    if (!sp_is(object, &PyUnicode_Type) || !sp_read(object, &head, sizeof head)) return 0;
    kind = head.state.kind;
    if (!head.state.compact || (kind != 1 && kind != 2 && kind != 4) || head.length < 0) return 0;
    data = object + (head.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject));
    count = head.length;
    if (count > SP_MOST_CHARACTERS) {
        skipped = count - SP_MOST_CHARACTERS;
        count = SP_MOST_CHARACTERS;
        used += sp_utf8(0x2026, to);
    }
    if (count && !sp_read(data + (uintptr_t)skipped * kind, raw, (size_t)count * kind)) return 0;
    for (i = 0; i < count; i++) {
        uint32_t c = kind == 1 ? raw[i] : kind == 2 ? ((uint16_t *)raw)[i] : ((uint32_t *)raw)[i];
        used += sp_utf8(c, to + used);
    }
    return used;
}

/* Append "file 0 line 0 function 0"; 0 when the room is used up. */
static int sp_put(sp_place *place, char *text, size_t room, size_t *used) {
    PyCodeObject code;
    char file[SP_TEXT_ROOM], name[SP_TEXT_ROOM], line[16];
    size_t file_length, name_length, line_length;
    if (!sp_read(place->code, &code, offsetof(PyCodeObject, co_code_adaptive))) return 1;
    file_length = sp_text((uintptr_t)code.co_filename, file);
    name_length = sp_text((uintptr_t)code.co_qualname, name);
    line_length = (size_t)snprintf(line, sizeof line, "%d", sp_line(place->code, &code, place->instruction));
    if (*used + file_length + line_length + name_length + 3 > room) return 0;
    memcpy(text + *used, file, file_length);
    *used += file_length;
    text[(*used)++] = 0;
    memcpy(text + *used, line, line_length + 1);
    *used += line_length + 1;
    memcpy(text + *used, name, name_length);
    *used += name_length;
    text[(*used)++] = 0;
    return 1;
}

/* Write the stack of the thread with the state at `tstate` to `text`; returns the bytes written. */
static size_t sp_stack(uintptr_t tstate, char *text, size_t room, uint32_t *flags) {
    sp_place places[2][SP_MOST_FRAMES];
    int count = 0, again, whole, try, i, now = 0;
    size_t used = 0;
    *flags = 0;
    count = sp_chain(tstate, places[0], &whole);
    if (count < 0) {
        *flags = errno == EPERM || errno == ENOSYS ? SP_STACK_REFUSED : SP_STACK_UNKNOWN;
        return 0;
    }
    /* Two copies that agree are the stack as it was. One that moves all the time is shown as the last copy has it. */
    for (try = 0; try < SP_TRIES; try++) {
        again = sp_chain(tstate, places[!now], &whole);
        now = !now;
        if (again == count && count >= 0 && !memcmp(places[0], places[1], sizeof(sp_place) * (size_t)count)) break;
        count = again;
    }
    if (count < 0) { *flags = SP_STACK_UNKNOWN; return 0; }
    if (try == SP_TRIES) *flags |= SP_STACK_MOVED;
    for (i = 0; i < count && sp_put(&places[now][i], text, room, &used); i++) {}
    if (whole && i == count) *flags |= SP_STACK_WHOLE;
    return used;
}
#else
#define SP_HAVE_STACKS 0
static size_t sp_stack(uintptr_t tstate, char *text, size_t room, uint32_t *flags) {
    (void)tstate; (void)text; (void)room;
    *flags = SP_STACK_UNKNOWN;
    return 0;
}
#endif
#endif
